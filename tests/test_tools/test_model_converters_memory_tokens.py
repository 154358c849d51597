"""tools/model_converters/memory_tokens.py, on the weights of the reference cases."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from hstpeft.apis import init_model
from hstpeft.official import split_memory_tokens
from hstpeft.oracle.case import Case
from tests.support import tiny
from tests.support.paths import REFERENCE
from tools.model_converters.memory_tokens import main

LEAF = """
default_scope = 'mmpretrain'
trunk = dict(
    type='hstpeft.ViTTrunk',
    arch='vit_base_patch16_224',
    arch_options=dict(img_size=64, embed_dim=64, depth=3, num_heads=4),
    weights='{weights}',
)
model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='hstpeft.TunedBackbone',
        trunk=trunk,
        tuner=dict(type='hstpeft.MemoryTokensTuner', mode='{mode}'),
    ),
    head=dict(type='mmpretrain.LinearClsHead', num_classes=10, in_channels=64),
)
"""


class Official(NamedTuple):
    """What a user of the official code has: a checkpoint, and the trunk it was trained on."""

    folder: Path
    case: Case

    @property
    def leaf(self) -> Path:
        return self.folder / 'leaf.py'

    @property
    def checkpoint(self) -> Path:
        return self.folder / 'official.pth'


@pytest.fixture(scope='module', params=['prop', 'standard'])
def official(request, tmp_path_factory) -> Official:
    folder = tmp_path_factory.mktemp('official')
    path = REFERENCE / 'hma' / f'memory_tokens_{request.param}_eval.json'
    case = Case(path, torch.float32)
    trunk, _ = split_memory_tokens(case.weights)
    # The class token is trained: before the official training it had other values.
    save_file({**trunk, 'cls_token': 0.5 * trunk['cls_token']}, folder / 'vit.safetensors')
    text = LEAF.format(weights=folder / 'vit.safetensors', mode=request.param)
    (folder / 'leaf.py').write_text(text)
    torch.save({'state_dict': case.weights}, folder / 'official.pth')
    return Official(folder, case)


def convert(direction: str, official: Official, source: Path, output: Path) -> Path:
    main([direction, str(official.leaf), str(source), str(output)])
    return output


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_round_trip_is_exact(official, tmp_path, suffix):
    delta = convert('to-delta', official, official.checkpoint, tmp_path / f'delta{suffix}')
    back = convert('to-official', official, delta, tmp_path / 'official.pth')
    tensors = torch.load(back, weights_only=True)['model']
    assert tensors.keys() == official.case.weights.keys()
    assert all(tensors[key].equal(value) for key, value in official.case.weights.items())


def test_converted_delta_gives_the_logits_of_the_reference(official, tmp_path):
    delta = convert('to-delta', official, official.checkpoint, tmp_path / 'delta.pth')
    model = init_model(official.leaf, delta, 'cpu').double()
    with torch.no_grad():
        logits = model(official.case.inputs['input'].double(), mode='tensor')
    assert abs(logits.numpy() - official.case.arrays['logits_float64']).max() < 1e-12
    state = tiny.load(delta)['state_dict']
    trunk = [key for key in state if key.startswith('backbone.trunk.')]
    assert trunk == ['backbone.trunk.vit.cls_token']


@pytest.mark.parametrize(
    'key, words',
    [
        ('blocks.1.attn.qkv.weight', 'blocks.1.attn.qkv.weight of the official checkpoint is not'),
        ('blocks.0.added_mem', 'memory tokens: missing'),
        ('head.bias', "missing ['head.bias']"),
    ],
)
def test_a_missing_tensor_is_named(official, tmp_path, key, words, capsys):
    tensors = {name: value for name, value in official.case.weights.items() if name != key}
    torch.save(tensors, tmp_path / 'official.pth')
    with pytest.raises(SystemExit, match='1'):
        convert('to-delta', official, tmp_path / 'official.pth', tmp_path / 'never.pth')
    assert not (tmp_path / 'never.pth').exists()
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('memory_tokens.py: error: ') and words in error


def test_a_tensor_that_the_trunk_lacks_is_named(official, tmp_path, capsys):
    tensors = {**official.case.weights, 'blocks.3.norm1.bias': torch.ones(64)}
    torch.save(tensors, tmp_path / 'official.pth')
    with pytest.raises(SystemExit, match='1'):
        convert('to-delta', official, tmp_path / 'official.pth', tmp_path / 'never.pth')
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'blocks.3.norm1.bias of the official checkpoint are not in the trunk' in error
