"""tools/model_converters/adapter_plus.py: checkpoints of adapters and head alone, and whole ones."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from hstpeft.apis import init_model
from hstpeft.official.adapter_plus import split_adapter_plus
from hstpeft.oracle.case import Case
from tests.support.paths import REFERENCE
from tools.model_converters.adapter_plus import main

LEAF = """
default_scope = 'mmpretrain'
trunk = dict(
    type='hstpeft.ViTTrunk',
    arch='vit_base_patch16_224',
    arch_options=dict(img_size=48, embed_dim=48, depth=3, num_heads=4, mlp_ratio=2.0),
    weights='{weights}',
)
model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='hstpeft.TunedBackbone',
        trunk=trunk,
        tuner=dict(type='hstpeft.AdapterPlusTuner', {options}),
    ),
    head=dict(type='mmpretrain.LinearClsHead', num_classes=10, in_channels=48),
)
"""
# What is in a checkpoint: adapters and head, as the official training saves it, or everything.
OPTIONS = {
    'vit_post_channel_eval': ("form='post'", 'adapters'),
    'vit_pfeiffer_eval': ("form='pfeiffer', scale=1.0, adapter_norm='in'", 'adapters'),
    'vit_intermediate_eval': ("form='intermediate', scale=2.0", 'everything'),
    'vit_houlsby_trainln_eval': ("form='houlsby', scale=1.0, train_norms=True", 'everything'),
}


class Official(NamedTuple):
    """What a user of the official code has: a checkpoint, and the trunk it was trained on."""

    folder: Path
    case: Case
    tensors: dict[str, torch.Tensor]

    @property
    def leaf(self) -> Path:
        return self.folder / 'leaf.py'

    @property
    def checkpoint(self) -> Path:
        return self.folder / 'official.pth'


def make(folder: Path, name: str) -> Official:
    options, content = OPTIONS[name]
    case = Case(REFERENCE / 'adapter_plus' / f'{name}.json', torch.float32)
    trunk, _ = split_adapter_plus(case.weights)
    # Trained norms had other values before.
    trains_norms = 'train_norms' in options
    before = {key: 0.5 * t if trains_norms and 'norm' in key else t for key, t in trunk.items()}
    save_file(before, folder / 'vit.safetensors')
    (folder / 'leaf.py').write_text(
        LEAF.format(weights=folder / 'vit.safetensors', options=options)
    )
    kept = {
        key: t for key, t in case.weights.items() if content == 'everything' or key not in trunk
    }
    tensors = {f'vit.{key}': t for key, t in kept.items()}
    torch.save({'state_dict': tensors, 'epoch': 100}, folder / 'official.pth')
    return Official(folder, case, tensors)


@pytest.fixture(scope='module', params=OPTIONS)
def official(request, tmp_path_factory) -> Official:
    return make(tmp_path_factory.mktemp('official'), request.param)


def convert(direction: str, official: Official, source: Path, output: Path) -> Path:
    main([direction, str(official.leaf), str(source), str(output)])
    return output


def test_a_converted_delta_gives_the_logits_of_the_reference(official, tmp_path):
    delta = convert('to-delta', official, official.checkpoint, tmp_path / 'delta.pth')
    model = init_model(official.leaf, delta, 'cpu').double()
    with torch.no_grad():
        logits = model(official.case.inputs['input'].double(), mode='tensor')
    assert abs(logits.numpy() - official.case.arrays['logits_float64']).max() < 1e-12


def test_round_trip_is_exact_and_holds_what_was_trained(official, tmp_path):
    delta = convert('to-delta', official, official.checkpoint, tmp_path / 'delta.safetensors')
    back = convert('to-official', official, delta, tmp_path / 'official.pth')
    tensors = torch.load(back, weights_only=True)['model']
    trained = {f'vit.{key}' for key, _, trained in official.case.meta['parameters'] if trained}
    assert tensors.keys() == trained
    assert all(value.equal(official.tensors[key]) for key, value in tensors.items())
    again = convert('to-delta', official, back, tmp_path / 'again.safetensors')
    assert again.read_bytes() == delta.read_bytes()


def refused(official: Official, tensors: dict, folder: Path, capsys) -> str:
    """Return the line that refuses a checkpoint."""
    torch.save({'state_dict': tensors}, folder / 'other.pth')
    with pytest.raises(SystemExit, match='1'):
        convert('to-delta', official, folder / 'other.pth', folder / 'never.pth')
    assert not (folder / 'never.pth').exists()
    return capsys.readouterr().err.splitlines()[-1]


def test_what_is_missing_is_named(official, tmp_path, capsys):
    key = 'vit.blocks.1.adapter.bottleneck.4.bias'
    tensors = {name: value for name, value in official.tensors.items() if name != key}
    line = refused(official, tensors, tmp_path, capsys)
    assert line.startswith('adapter_plus.py: error: ') and 'tuner.adapters.1.up.bias' in line
    for key in ('head.bias', 'blocks.0.adapter.bottleneck.1.weight'):
        tensors = {name: value for name, value in official.tensors.items() if name != f'vit.{key}'}
        line = refused(official, tensors, tmp_path, capsys)
        assert line.endswith(f'not an official Adapter+ checkpoint: missing {key}')


def test_what_the_config_does_not_have_is_named(tmp_path, capsys):
    official = make(tmp_path, 'vit_post_channel_eval')
    prefix = 'vit.blocks.0.adapter'
    attn = {f'{prefix}_attn.bottleneck.1.bias': torch.zeros(8)}
    line = refused(official, {**official.tensors, **attn}, tmp_path, capsys)
    assert 'attn_adapters.0.down.bias' in line
    line = refused(
        official, {**official.tensors, f'{prefix}.gate': torch.ones(1)}, tmp_path, capsys
    )
    assert 'blocks.0.adapter.gate of the official checkpoint are not in the trunk' in line


def test_trained_norms_that_are_missing_are_named(tmp_path, capsys):
    """The official training saves no norms, and a whole trunk that is another one is refused."""
    official = make(tmp_path, 'vit_houlsby_trainln_eval')
    alone = {k: v for k, v in official.tensors.items() if 'adapter' in k or 'head' in k}
    assert 'blocks.0.norm1.bias' in refused(official, alone, tmp_path, capsys)
    key = 'blocks.2.attn.qkv.bias'
    other = {**official.tensors, f'vit.{key}': torch.ones(144)}
    line = refused(official, other, tmp_path, capsys)
    assert f'{key} of the official checkpoint is not that of the trunk' in line
