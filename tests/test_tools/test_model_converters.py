"""tools/model_converters/hst.py, on the weights of a reference case."""

import argparse
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from hstpeft.apis import init_model
from hstpeft.official import split_hst
from hstpeft.oracle.case import Case
from tests.support import tiny
from tests.support.paths import REFERENCE
from tools.model_converters.hst import main
from tools.reference_checks import hst

LEAF = """
default_scope = 'mmpretrain'
arch_options = dict(img_size=64, embed_dim=64, depth=12, num_heads=4)
trunk = dict(type='hstpeft.ViTTrunk', arch='vit_base_patch16_224', arch_options=arch_options)
model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='hstpeft.TunedBackbone',
        trunk=dict(weights='{weights}', **trunk),
        tuner=dict(type='hstpeft.HSTTuner', side_heads=[2, 4, 8, 12]),
    ),
    neck=dict(type='hstpeft.PooledNorm', in_channels=72),
    head=dict(type='mmpretrain.LinearClsHead', num_classes=10, in_channels=72),
)
"""


class Official(NamedTuple):
    """What a user of official HST has: a checkpoint, and the trunk it was trained on."""

    folder: Path
    tensors: dict[str, torch.Tensor]
    case: Case

    @property
    def leaf(self) -> Path:
        return self.folder / 'leaf.py'

    @property
    def checkpoint(self) -> Path:
        return self.folder / 'official.pth'


@pytest.fixture(scope='module')
def official(tmp_path_factory) -> Official:
    folder = tmp_path_factory.mktemp('official')
    case = Case(REFERENCE / 'hst' / 'small_eval.json', torch.float32)
    trunk, _ = split_hst(case.weights)
    # Before the official training the norms of the blocks had other values.
    before = {key: value * 0.5 if '.norm' in key else value for key, value in trunk.items()}
    save_file(before, folder / 'vit.safetensors')
    (folder / 'leaf.py').write_text(LEAF.format(weights=folder / 'vit.safetensors'))
    wrapped = {f'module.{key}': value for key, value in case.weights.items()}
    arguments = argparse.Namespace(lr=1e-3)
    torch.save({'model': wrapped, 'args': arguments, 'epoch': 3}, folder / 'official.pth')
    return Official(folder, case.weights, case)


def convert(direction: str, official: Official, source: Path, output: Path) -> Path:
    main([direction, str(official.leaf), str(source), str(output)])
    return output


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_round_trip_is_exact(official, tmp_path, suffix):
    delta = convert('to-delta', official, official.checkpoint, tmp_path / 'new' / f'delta{suffix}')
    back = convert('to-official', official, delta, tmp_path / 'other' / 'official.pth')
    tensors = torch.load(back, weights_only=True)['model']
    assert tensors.keys() == official.tensors.keys()
    assert all(tensors[key].equal(value) for key, value in official.tensors.items())


def test_converted_delta_gives_the_logits_of_the_reference(official, tmp_path):
    delta = convert('to-delta', official, official.checkpoint, tmp_path / 'delta.pth')
    model = init_model(official.leaf, delta, 'cpu')
    image = official.case.inputs['input']
    with torch.no_grad():
        logits = model.head(model.neck(model.backbone(image)))
        built = hst.build(official.case).eval()
        assert logits.equal(built.head(built.neck(built.backbone(image))))
    difference = logits.numpy() - official.case.arrays['logits']
    assert abs(difference).max() < 2e-5
    frozen_only = {key for key in tiny.load(delta)['state_dict'] if 'attn.qkv' in key}
    assert not frozen_only


def refusal(direction: str, official: Official, source: Path, capsys) -> str:
    output = official.folder / 'never.pth'
    with pytest.raises(SystemExit, match='1'):
        convert(direction, official, source, output)
    assert not output.exists()
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith('hst.py: error: ')
    return line


def test_another_trunk_is_refused(official, tmp_path, capsys):
    tensors = dict(official.tensors)
    tensors['blocks.7.attn.qkv.weight'] = tensors['blocks.7.attn.qkv.weight'] + 1e-6
    torch.save({'model': tensors}, tmp_path / 'official.pth')
    line = refusal('to-delta', official, tmp_path / 'official.pth', capsys)
    assert 'blocks.7.attn.qkv.weight of the official checkpoint is not that of the trunk' in line


@pytest.mark.parametrize('key', ['T_Bridge_2.weight', 'head.bias', 'fc_norm.running_mean'])
def test_a_missing_tensor_is_named(official, tmp_path, capsys, key):
    tensors = {name: value for name, value in official.tensors.items() if name != key}
    torch.save(tensors, tmp_path / 'official.pth')
    assert f"missing ['{key}']" in refusal('to-delta', official, tmp_path / 'official.pth', capsys)


def test_other_files_are_refused(official, tmp_path, capsys):
    path = tmp_path / 'official.pth'
    assert 'does not exist' in refusal('to-delta', official, path, capsys)
    path.write_bytes(official.checkpoint.read_bytes()[:5000])
    assert 'cannot be read' in refusal('to-delta', official, path, capsys)
    torch.save([1, 2], path)
    assert 'cannot be read' in refusal('to-delta', official, path, capsys)
    torch.save({'model': {'conv.weight': torch.ones(1)}}, path)
    assert 'not an official HST' in refusal('to-delta', official, path, capsys)
    torch.save({'state_dict': {'head.fc.weight': torch.ones(10, 72)}}, path)
    assert 'does not fit' in refusal('to-official', official, path, capsys)


def test_code_in_an_official_checkpoint_is_not_run(official, tmp_path, capsys):
    canary = tmp_path / 'canary'
    torch.save({'model': Payload(canary)}, tmp_path / 'official.pth')
    assert 'cannot be read' in refusal('to-delta', official, tmp_path / 'official.pth', capsys)
    assert not canary.exists()


class Payload:
    """Makes a file when it is unpickled without care."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        """Make the canary file."""
        return Path.touch, (self.canary,)
