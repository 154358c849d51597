"""Deltas: small, exact wherever they are loaded, refused where they do not belong (C5-C9)."""

import json
import re
from pathlib import Path

import pytest
import torch
from mmpretrain.apis import ImageClassificationInferencer
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from hstpeft.apis import inference, init_model, publish
from hstpeft.delta import load_checkpoint, save_delta
from hstpeft.delta.merge import merge
from hstpeft.engine.config import load_config
from hstpeft.engine.launch import build_runner
from hstpeft.errors import UserError
from tests.support import tiny
from tests.support.deltas import SUFFIXES, delta
from tests.support.models import (
    backbone_config,
    build,
    images,
    snapshot,
    trunk_config,
)
from tests.support.paths import OLD_FILES
from tools.test import main as run_test
from tools.train import apply_options, parse_options

OLD = sorted(path.parent.name for path in OLD_FILES.glob('*/config.json'))


def runner_of(config: Path, work_dir: Path):
    """Do what tools/train.py does up to ``train()``, and keep the runner."""
    parsed = parse_options(tiny.arguments(config, work_dir))
    cfg = load_config(parsed.config, parsed.cfg_options)
    apply_options(cfg, parsed)
    return build_runner(cfg)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(images(3, 3, 32, 40), mode='tensor')


# --- C5


def test_C5_a_delta_is_small_and_loads_with_nothing_but_torch(trained):
    content = torch.load(trained.delta, weights_only=True)
    assert content.keys() == {'state_dict', 'meta', 'sha256'}
    frozen = {'attn.qkv', 'attn.proj', 'mlp.fc', 'patch_embed', 'pos_embed', 'vit.norm'}
    trunk_keys = [key for key in content['state_dict'] if '.trunk.' in key]
    assert trunk_keys and not any(part in key for key in trunk_keys for part in frozen)
    size = sum(value.numel() * value.element_size() for value in content['state_dict'].values())
    assert trained.delta.stat().st_size <= size + 65536
    assert content['meta']['dataset_meta'] == {'classes': list(tiny.CLASSES)}
    assert (content['meta']['epoch'], content['meta']['iter']) == (3, 9)


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_C5_a_file_is_no_larger_than_its_tensors_and_64_kib(tmp_path, suffix):
    saved = delta()
    size = sum(value.numel() * value.element_size() for value in saved['state_dict'].values())
    assert save_delta(saved, tmp_path / f'hst{suffix}') <= size + 64 * 1024
    view = {'state_dict': {'row': torch.ones(1000, 1000)[3]}, 'meta': {}}
    assert save_delta(view, tmp_path / f'view{suffix}') < 16 * 1024


def test_C5_a_loaded_delta_gives_bit_equal_logits(trained, tmp_path):
    """The model that was trained, and those that only read trunk file and delta."""
    runner = runner_of(trained.task.hst, tmp_path)
    runner.train()
    expected = logits(runner.model)
    exported = tmp_path / 'delta.safetensors'
    save_delta(load_checkpoint(tmp_path / 'delta.pth'), exported)
    for path in (tmp_path / 'delta.pth', tmp_path / 'epoch_3.pth', exported):
        assert logits(init_model(trained.task.hst, path, 'cpu')).equal(expected)
        tester = runner_of(trained.task.hst, tmp_path)
        tester.load_checkpoint(str(path))
        assert logits(tester.model).equal(expected)
    # The same seed gives the same run.
    model = init_model(trained.task.hst, trained.delta, 'cpu')
    assert tiny.same(dict(runner.model.state_dict()), dict(model.state_dict()))


def test_C5_without_the_trunk_that_refills_it_a_delta_computes_something_else(trained):
    """The control: the trunk's tensors come from the trunk's file, and count."""
    expected = init_model(trained.task.hst, trained.delta, 'cpu')
    config = expected.cfg.copy()
    config.model.backbone.trunk.weights = None
    bare, state = init_model(config, None, 'cpu'), load_checkpoint(trained.delta)['state_dict']
    own = bare.state_dict()
    for key in state.keys() - {'backbone._extra_state'}:
        own[key].copy_(state[key])
    assert not torch.allclose(logits(bare), logits(expected), atol=1e-3)
    for key, value in expected.backbone.trunk.state_dict().items():
        bare.backbone.trunk.state_dict()[key].copy_(value)
    assert logits(bare).equal(logits(expected))


def test_C5_the_inferencer_of_mmpretrain_gives_the_same_scores(trained):
    path = trained.task.data / 'images' / 'test' / '000000.png'
    model = init_model(trained.task.hst, trained.delta, 'cpu')
    (expected,) = inference(model, path)
    inferencer = ImageClassificationInferencer(
        str(trained.task.hst), pretrained=str(trained.delta), device='cpu'
    )
    for each in (inferencer, ImageClassificationInferencer(model)):
        (result,) = each(str(path))
        assert result['pred_scores'].tolist() == expected['pred_scores']
        assert result['pred_class'] == expected['pred_class']


# --- C6, C7


def refusal(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as exit_info:
        run_test(tiny.arguments(*arguments))
    assert exit_info.value.code == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_C6_another_trunk_is_refused_with_both_hashes(trained, tmp_path, capsys):
    other = tiny.make_task(tmp_path / 'other', seed=1)
    line = refusal(capsys, other.hst, tmp_path / 'work', trained.delta)
    hashes = [
        init_model(leaf, None, 'cpu').backbone.trunk.identity[:12]
        for leaf in (trained.task.hst, other.hst)
    ]
    assert f'made on the trunk {hashes[0]}, the model has the trunk {hashes[1]}' in line
    assert line.endswith('as backbone.trunk.weights')


def test_C6_missing_trunk_weights_are_named(trained, tmp_path, capsys):
    leaf = tmp_path / 'leaf.py'
    leaf.write_text(trained.task.hst.read_text().replace('vit.safetensors', 'gone.safetensors'))
    line = refusal(capsys, leaf, tmp_path / 'work', trained.delta)
    assert re.search(r'trunk\.weights \S+gone\.safetensors does not exist', line)


def test_C7_a_delta_of_another_method_is_refused_with_both_names(trained, tmp_path, capsys):
    line = refusal(capsys, trained.task.linear, tmp_path / 'work', trained.delta)
    assert 'made with the tuner HSTTuner, the model has FrozenTuner' in line


# --- C8


def test_C8_safetensors_are_byte_stable_over_save_load_save(tmp_path):
    path, copy = tmp_path / 'a.safetensors', tmp_path / 'b.safetensors'
    save_delta(delta(), path)
    for _ in range(5):  # a format with two entries of metadata would come in either order
        save_delta(load_checkpoint(path), copy)
        assert path.read_bytes() == copy.read_bytes()


def test_C8_a_merge_computes_the_same_and_leaves_the_model_as_it_was():
    tuner = dict(type='hstpeft.LoRATuner', rank=4, alpha=8, positions=['qkv'])
    head = dict(type='LinearClsHead', num_classes=5, in_channels=32)
    model = build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=backbone_config(trunk_config(), tuner),
            head=head,
        ),
        seed=1,
    ).eval()
    before, expected = snapshot(model), logits(model)
    _, merged = merge(model)
    assert 0 < (logits(merged) - expected).abs().max() <= 1e-5
    after = snapshot(model)
    assert before.keys() == after.keys() and all(before[key].equal(after[key]) for key in before)
    assert logits(model).equal(expected)


# --- C9


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('name', OLD)
def test_C9_old_files_load_bit_by_bit_and_say_that_they_carry_no_hash(name, suffix, capsys):
    path = OLD_FILES / name / f'delta{suffix}'
    raw = load_file(path) if suffix != '.pth' else torch.load(path, weights_only=True)['state_dict']
    loaded = load_checkpoint(path)
    assert loaded['state_dict'].keys() == raw.keys()
    for key, value in raw.items():
        assert loaded['state_dict'][key].dtype == value.dtype
        assert loaded['state_dict'][key].equal(value), key
    assert loaded['meta']['versions'] == {'hstpeft': '0.1.0', 'torch': '2.12.0+cu130'}
    said = ''.join(capsys.readouterr())
    assert said.count('carries no sha256') == 1 and str(path) in said


def test_C9_a_new_file_says_nothing_and_its_hash_is_one_for_both_formats(tmp_path, capsys):
    for suffix in SUFFIXES:
        save_delta(delta(), tmp_path / f'hst{suffix}')
        load_checkpoint(tmp_path / f'hst{suffix}')
    with safe_open(tmp_path / 'hst.safetensors', 'pt') as file:
        header = json.loads(file.metadata()['meta'])
    found = torch.load(tmp_path / 'hst.pth', weights_only=True)['sha256']
    assert len(found) == 64 and found == header['sha256']
    assert 'sha256' not in ''.join(capsys.readouterr())


# --- the published name


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_C6_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, suffix):
    save_delta(delta(0), tmp_path / f'a{suffix}')
    save_delta(delta(1), tmp_path / f'b{suffix}')
    published = publish(tmp_path / f'a{suffix}', tmp_path / f'hst{suffix}')
    load_checkpoint(published)
    (tmp_path / f'b{suffix}').rename(published)  # another one, whole and with its own hash
    with pytest.raises(UserError, match=r'is not what its name says: its sha256 begins with'):
        load_checkpoint(published)


@pytest.mark.parametrize('name', ['run-20261130', 'best_mIoU_iter-1234567', 'hst-vit-b16', '-'])
def test_C6_a_date_in_a_name_is_no_hash(tmp_path, name):
    save_delta(delta(), tmp_path / f'{name}.pth')
    assert load_checkpoint(tmp_path / f'{name}.pth')['state_dict']
