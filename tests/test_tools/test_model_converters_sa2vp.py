"""tools/model_converters/sa2vp.py, on the weights of the reference cases, ViT and Swin."""

import argparse
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from hstpeft.apis import init_model
from hstpeft.official import split_sa2vp
from hstpeft.official.sa2vp import frozen_copies
from hstpeft.oracle.case import Case
from tests.support import tiny
from tests.support.paths import REFERENCE
from tests.support.tiers import first_fast
from tools.model_converters.sa2vp import main

TRUNKS = dict(
    vit="""dict(
            type='hstpeft.ViTTrunk', arch='vit_base_patch16_224', weights='{weights}',
            arch_options=dict(img_size=64, embed_dim=64, depth=12, num_heads=4, mlp_ratio=2.0),
        )""",
    swin="""dict(
            type='hstpeft.SwinTrunk', arch='swin_base_patch4_window7_224', weights='{weights}',
            arch_options=dict(
                img_size=64, embed_dim=16, depths=(2, 2, 18, 2), num_heads=(2, 2, 4, 4),
                window_size=4,
            ),
        )""",
)
LEAF = """
default_scope = 'mmpretrain'
model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='hstpeft.TunedBackbone',
        trunk={trunk},
        tuner=dict(type='hstpeft.SA2VPTuner', {tuner}),
    ),
    head=dict(type='hstpeft.TwoBranchClsHead', num_classes=10, in_channels={width}),
)
"""
TUNERS = dict(
    swin_eval='inner_dims=6, mixing_weight=0.5',
    vit_acc_eval='inner_dims=8, accelerated=True',
    vit_plain_eval='inner_dims=8',
)
UNTIED = 'model.backbone.tuner.tie_cross_attention=False'


class Official(NamedTuple):
    """What a user of official SA2VP has: a checkpoint, and a config for the trunk it is on."""

    folder: Path
    case: Case
    options: tuple[str, ...]

    @property
    def leaf(self) -> Path:
        return self.folder / 'leaf.py'

    @property
    def checkpoint(self) -> Path:
        return self.folder / 'official.pth'

    @property
    def swin(self) -> bool:
        return 'swin' in self.case.name


def make(folder: Path, name: str) -> Official:
    """Write a case's weights as an official checkpoint, its trunk, and a config."""
    case = Case(REFERENCE / 'sa2vp' / f'{name}.json', torch.float32)
    trunk, _ = split_sa2vp(case.weights)
    save_file(trunk, folder / 'trunk.safetensors')
    text = TRUNKS['swin' if 'swin' in name else 'vit'].format(weights=folder / 'trunk.safetensors')
    width = trunk['norm.weight'].numel()
    tuner = TUNERS[name.removesuffix('_tied')]
    (folder / 'leaf.py').write_text(LEAF.format(trunk=text, tuner=tuner, width=width))
    buffers = {key: torch.ones(shape) for key, shape, _ in case.meta['buffers']}
    wrapped = {f'module.{key}': value for key, value in {**case.weights, **buffers}.items()}
    arguments = argparse.Namespace(lr=1e-3)
    torch.save({'model': wrapped, 'args': arguments, 'epoch': 3}, folder / 'official.pth')
    options = () if name.endswith('_tied') else ('--cfg-options', UNTIED)
    return Official(folder, case, options)


@pytest.fixture(scope='module', params=first_fast([*(f'{name}_tied' for name in TUNERS), *TUNERS]))
def official(request, tmp_path_factory) -> Official:
    return make(tmp_path_factory.mktemp('official'), request.param)


@pytest.fixture(scope='module')
def vit(tmp_path_factory) -> Official:
    return make(tmp_path_factory.mktemp('vit'), 'vit_plain_eval_tied')


def convert(direction: str, official: Official, source: Path, output: Path, *options: str) -> Path:
    main([direction, str(official.leaf), str(source), str(output), *options])
    return output


def test_round_trip_is_exact_and_gives_the_logits_of_the_reference(official, tmp_path):
    case, tied = official.case, official.case.name.endswith('_tied')
    delta = convert(
        'to-delta', official, official.checkpoint, tmp_path / 'delta.safetensors', *official.options
    )
    back = convert('to-official', official, delta, tmp_path / 'back.pth', *official.options)
    tensors = torch.load(back, weights_only=True)['model']
    assert tensors.keys() == case.weights.keys()
    assert all(tensors[key].equal(value) for key, value in case.weights.items())
    copies = frozen_copies(18 if official.swin else 12, official.swin).keys()
    assert copies < tensors.keys()
    options = {} if tied else {'model.backbone.tuner.tie_cross_attention': False}
    model = init_model(official.leaf, delta, 'cpu', options)
    assert any('copies' in key for key in model.state_dict()) != tied
    with torch.no_grad():
        logits = model(case.inputs['input'], mode='tensor')
    assert abs(logits.numpy() - case.arrays['logits']).max() < 2e-5


def test_a_tied_delta_holds_no_frozen_tensor(vit, tmp_path):
    delta = convert('to-delta', vit, vit.checkpoint, tmp_path / 'delta.pth')
    state = tiny.load(delta)['state_dict']
    state.pop('backbone._extra_state')
    assert sum(value.numel() for value in state.values()) == vit.case.meta['trainable_parameters']


def test_equal_copies_may_be_kept_apart(vit, tmp_path):
    apart = ('--cfg-options', UNTIED)
    delta = convert('to-delta', vit, vit.checkpoint, tmp_path / 'delta.pth', *apart)
    assert sum('copies' in key for key in tiny.load(delta)['state_dict']) == 12 * 6
    back = convert('to-official', vit, delta, tmp_path / 'back.pth', *apart)
    tensors = torch.load(back, weights_only=True)['model']
    assert all(tensors[key].equal(value) for key, value in vit.case.weights.items())


def refusal(direction: str, official: Official, source: Path, capsys) -> str:
    output = official.folder / 'never.pth'
    with pytest.raises(SystemExit, match='1'):
        convert(direction, official, source, output)
    assert not output.exists()
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith('sa2vp.py: error: ')
    return line


@pytest.mark.parametrize('part', ['attn.to_v.weight', 'attn.to_out.bias', 'attention_norm.weight'])
def test_copies_that_differ_are_refused_unless_the_config_keeps_them(vit, tmp_path, capsys, part):
    tensors = dict(vit.case.weights)
    key = f'vit_base.transformer.encoder.cross_attn.7.{part}'
    tensors[key] = tensors[key] + 1e-6
    source = tmp_path / 'official.pth'
    torch.save({'model': tensors}, source)
    line = refusal('to-delta', vit, source, capsys)
    assert "cross-attention weights differ from its blocks'" in line and UNTIED in line
    apart = ('--cfg-options', UNTIED)
    delta = convert('to-delta', vit, source, tmp_path / 'delta.pth', *apart)
    back = convert('to-official', vit, delta, tmp_path / 'back.pth', *apart)
    assert torch.load(back, weights_only=True)['model'][key].equal(tensors[key])


def test_another_trunk_is_refused(vit, tmp_path, capsys):
    tensors = dict(vit.case.weights)
    for key in ('encoder.layer.7.attn.query.weight', 'encoder.cross_attn.7.attn.to_q.weight'):
        tensors[f'vit_base.transformer.{key}'] = tensors[f'vit_base.transformer.{key}'] + 1e-6
    torch.save({'model': tensors}, tmp_path / 'official.pth')
    line = refusal('to-delta', vit, tmp_path / 'official.pth', capsys)
    assert 'blocks.7.attn.qkv.weight of the official checkpoint is not that of the trunk' in line


@pytest.mark.parametrize(
    'key', ['class_head.bias', 'encoder.cross_conv', 'encoder.cross_attn.3.ffn.fc1.weight',
            'encoder.cross_attn.3.attn.to_q.bias']
)  # fmt: skip
def test_a_missing_tensor_is_named(vit, tmp_path, capsys, key):
    name = key if key == 'class_head.bias' else f'vit_base.transformer.{key}'
    tensors = {other: value for other, value in vit.case.weights.items() if other != name}
    torch.save(tensors, tmp_path / 'official.pth')
    assert f"missing ['{name}']" in refusal('to-delta', vit, tmp_path / 'official.pth', capsys)


def test_a_config_with_another_number_of_deep_prompts_is_refused(vit, tmp_path, capsys):
    with pytest.raises(SystemExit, match='1'):
        convert(
            'to-delta', vit, vit.checkpoint, tmp_path / 'delta.pth',
            '--cfg-options', 'model.backbone.tuner.deep_prompt_indices=[4]',
        )  # fmt: skip
    assert 'deep_prompts' in capsys.readouterr().err.splitlines()[-1]


def test_checkpoints_of_other_systems_are_refused(vit, tmp_path, capsys):
    path = tmp_path / 'official.pth'
    torch.save({'model': {'conv.weight': torch.ones(1)}}, path)
    assert 'not an official SA2VP checkpoint' in refusal('to-delta', vit, path, capsys)
    assert 'does not exist' in refusal('to-delta', vit, tmp_path / 'none.pth', capsys)
