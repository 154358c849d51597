"""tools/model_converters/arc.py, on the weights of the reference cases: ViT and Swin."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from hstpeft.apis import init_model
from hstpeft.official import split_arc
from hstpeft.oracle.case import Case
from tests.support import tiny
from tests.support.paths import REFERENCE
from tools.model_converters.arc import main

LEAF = """
default_scope = 'mmpretrain'
trunk = dict({trunk}, weights='{weights}')
model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='hstpeft.TunedBackbone',
        trunk=trunk,
        tuner=dict(type='hstpeft.ARCTuner', positions={positions}, adapter_dims={dims}),
    ),
    head=dict(type='mmpretrain.LinearClsHead', num_classes=10, in_channels=64),
)
"""
VIT = (
    "type='hstpeft.ViTTrunk', arch='vit_base_patch16_224', arch_options=dict("
    'img_size=64, embed_dim=64, depth=3, num_heads=4, mlp_ratio=2)'
)
SWIN = (
    "type='hstpeft.SwinTrunk', arch='swin_base_patch4_window7_224', arch_options=dict("
    'img_size=64, embed_dim=32, depths=(2, 2), num_heads=(2, 4), window_size=4)'
)
BOTH, ATTENTION = ['attention', 'mlp'], ['attention']
KINDS = {
    'ViT': ('vit_arc_eval', VIT, BOTH, 8),
    'ViT, attention': ('vit_arc_att_eval', VIT, ATTENTION, 8),
    'ViT, second naming': ('vit_arc_eval', VIT, BOTH, 8),
    'Swin': ('swin_arc_eval', SWIN, BOTH, 6),
}
SECOND_NAMING = {
    'att_down_projection': 'left_u_att',
    'mlp_down_projection': 'left_u_mlp',
    'att_adapter.adapter_rescale': 'att_scale',
    'att_adapter.adapter_bias': 'att_scale_bias',
    'mlp_adapter.adapter_rescale': 'mlp_scale',
    'mlp_adapter.adapter_bias': 'mlp_scale_bias',
}


class Official(NamedTuple):
    """What a user of official ARC has: a checkpoint, and the trunk it was trained on."""

    folder: Path
    tensors: dict[str, torch.Tensor]
    computed: dict[str, torch.Tensor]
    case: Case
    naming: str

    @property
    def leaf(self) -> Path:
        return self.folder / 'leaf.py'

    @property
    def checkpoint(self) -> Path:
        return self.folder / 'official.pth'


@pytest.fixture(scope='module', params=KINDS)
def official(request, tmp_path_factory) -> Official:
    return make_official(request.param, tmp_path_factory.mktemp('official'))


def make_official(kind: str, folder: Path) -> Official:
    name, trunk, positions, dims = KINDS[kind]
    case = Case(REFERENCE / 'arc' / f'{name}.json', torch.float32)
    save_file(split_arc(case.weights)[0], folder / 'trunk.safetensors')
    text = LEAF.format(
        trunk=trunk, weights=folder / 'trunk.safetensors', positions=positions, dims=dims
    )
    (folder / 'leaf.py').write_text(text)
    tensors, naming = dict(case.weights), 'adapter'
    if 'second' in kind:
        naming = 'new'
        for old, new in SECOND_NAMING.items():
            tensors = {key.replace(old, new): value for key, value in tensors.items()}
    aliases = case.meta.get('aliases_in_official_state_dict', {})
    tensors.update({alias: case.weights[key] for alias, key in aliases.items()})
    computed = {key: torch.zeros(shape) for key, shape, _ in case.meta['buffers']}
    wrapped = {f'module.{key}': value for key, value in {**tensors, **computed}.items()}
    torch.save({'model': wrapped, 'epoch': 3}, folder / 'official.pth')
    return Official(folder, tensors, computed, case, naming)


def convert(direction: str, official: Official, source: Path, output: Path, *flags: str) -> Path:
    main([direction, str(official.leaf), str(source), str(output), *flags])
    return output


def test_the_kinds_have_what_makes_them_special(official):
    if official.naming == 'new':
        assert 'transformer.layer.2.mlp_scale_bias' in official.tensors
        assert not [key for key in official.tensors if 'adapter' in key or 'down_' in key]
    if 'layers.0.attn_u' in official.tensors:
        assert 'layers.1.blocks.1.mlp_u' in official.tensors
        assert 'layers.1.blocks.1.attn_mask' in official.computed


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_round_trip_is_exact(official, tmp_path, suffix):
    delta = convert('to-delta', official, official.checkpoint, tmp_path / 'new' / f'delta{suffix}')
    flags = ['--naming', official.naming]
    back = convert('to-official', official, delta, tmp_path / 'other' / 'official.pth', *flags)
    tensors = torch.load(back, weights_only=True)['model']
    # What the official Swin computes when it is built is left out.
    assert tensors.keys() == official.tensors.keys()
    assert all(tensors[key].equal(value) for key, value in official.tensors.items())
    again = convert('to-delta', official, back, tmp_path / f'again{suffix}')
    if suffix == '.pth':
        assert tiny.same(tiny.load(again)['state_dict'], tiny.load(delta)['state_dict'])


def test_converted_delta_gives_the_logits_of_the_reference(official, tmp_path):
    delta = convert('to-delta', official, official.checkpoint, tmp_path / 'delta.pth')
    model = init_model(official.leaf, delta, 'cpu').double()
    with torch.no_grad():
        logits = model(official.case.inputs['input'].double(), mode='tensor')
    difference = logits.numpy() - official.case.arrays['logits_float64']
    assert abs(difference).max() < 1e-12
    state = tiny.load(delta)['state_dict']
    assert not [key for key in state if key.startswith('backbone.trunk.')]


def refusal(direction: str, official: Official, source: Path, capsys) -> str:
    output = official.folder / 'never.pth'
    with pytest.raises(SystemExit, match='1'):
        convert(direction, official, source, output)
    assert not output.exists()
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith('arc.py: error: ')
    return line


def test_another_trunk_is_refused(official, tmp_path, capsys):
    tensors = dict(official.tensors)
    key = next(k for k in tensors if k.endswith('mlp.fc1.weight'))
    tensors[key] = tensors[key] + 1e-6
    torch.save({'model': tensors}, tmp_path / 'official.pth')
    line = refusal('to-delta', official, tmp_path / 'official.pth', capsys)
    assert 'mlp.fc1.weight of the official checkpoint is not that of the trunk' in line


def test_a_missing_and_a_left_over_tensor_are_named(official, tmp_path, capsys):
    tensors = dict(official.tensors)
    key = next(k for k in tensors if k.endswith('head.bias'))
    del tensors[key]
    tensors['wings'] = torch.ones(2)
    torch.save(tensors, tmp_path / 'official.pth')
    line = refusal('to-delta', official, tmp_path / 'official.pth', capsys)
    assert f"missing ['{key}']" in line and "left over ['wings']" in line


def test_an_alias_that_differs_from_its_stage_is_refused(tmp_path, capsys):
    official = make_official('Swin', tmp_path)
    tensors = dict(official.tensors)
    tensors['layers.1.blocks.1.mlp_u'] = tensors['layers.1.blocks.1.mlp_u'] + 1
    torch.save(tensors, tmp_path / 'other.pth')
    line = refusal('to-delta', official, tmp_path / 'other.pth', capsys)
    assert 'layers.1.blocks.1.mlp_u' in line and 'differs from layers.1.mlp_u' in line


def test_a_file_of_another_method_is_refused(official, tmp_path, capsys):
    torch.save({'model': {'m_block1.0.attn.q.weight': torch.ones(1)}}, tmp_path / 'other.pth')
    assert 'is not an official ARC one' in refusal(
        'to-delta', official, tmp_path / 'other.pth', capsys
    )


def test_one_position_of_a_swin_has_no_official_form(tmp_path, capsys):
    official = make_official('Swin', tmp_path)
    text = official.leaf.read_text().replace("['attention', 'mlp']", "['attention']")
    official.leaf.write_text(text)
    model = init_model(official.leaf, None, 'cpu')
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'delta.pth')
    line = refusal('to-official', official, tmp_path / 'delta.pth', capsys)
    assert 'official ARC on a Swin has both positions' in line


def test_a_swin_has_no_second_naming(tmp_path, capsys):
    official = make_official('Swin', tmp_path)
    delta = convert('to-delta', official, official.checkpoint, tmp_path / 'delta.pth')
    with pytest.raises(SystemExit, match='1'):
        convert('to-official', official, delta, tmp_path / 'never.pth', '--naming', 'new')
    assert 'naming' in capsys.readouterr().err
