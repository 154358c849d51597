"""The converters of FacT and RepAdapter, whose official checkpoints hold what was trained alone."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from hstpeft.apis import init_model
from hstpeft.errors import UserError
from hstpeft.official.fact import split_fact
from hstpeft.official.repadapter import join_repadapter, split_repadapter
from hstpeft.oracle.case import Case
from tests.support.paths import REFERENCE
from tools.model_converters import fact, repadapter

LEAF = """
default_scope = 'mmpretrain'
trunk = dict({trunk}, weights='{weights}')
model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='hstpeft.TunedBackbone', trunk=trunk, tuner=dict({tuner})),
    head=dict(type='mmpretrain.LinearClsHead', num_classes=10, in_channels=48),
)
"""
VIT = (
    "type='hstpeft.ViTTrunk', arch='vit_base_patch16_224', arch_options=dict("
    'img_size=48, embed_dim=48, depth=3, num_heads=4, mlp_ratio={ratio})'
)
SWIN = (
    "type='hstpeft.SwinTrunk', arch='swin_base_patch4_window7_224', arch_options=dict("
    'img_size=64, embed_dim=24, depths=(2, 2), num_heads=(2, 4), window_size=4, mlp_ratio=2)'
)
FACT, REPADAPTER = "type='hstpeft.FacTTuner', rank=6", "type='hstpeft.RepAdapterTuner'"
CASES = {
    'fact/vit_tt_eval': (VIT.format(ratio=4), FACT),
    'fact/vit_tk_eval': (VIT.format(ratio=4), f"{FACT}, form='tk'"),
    'repadapter/vit_repattn_eval': (
        VIT.format(ratio=2),
        f"{REPADAPTER}, scale=2.0, positions=['attention']",
    ),
    'repadapter/swin_repblock_eval': (SWIN, f'{REPADAPTER}, scale=0.5'),
}
TOOLS = {'fact': (fact.main, split_fact), 'repadapter': (repadapter.main, split_repadapter)}


class Official(NamedTuple):
    """What a user of the official code has: a checkpoint, and the trunk it was trained on."""

    folder: Path
    system: str
    case: Case
    trained: dict[str, torch.Tensor]

    def convert(self, direction: str, source: Path, output: Path) -> Path:
        """Run the converter."""
        TOOLS[self.system][0]([direction, str(self.folder / 'leaf.py'), str(source), str(output)])
        return output


@pytest.fixture(scope='module', params=CASES)
def official(request, tmp_path_factory) -> Official:
    folder, system = tmp_path_factory.mktemp('official'), request.param.partition('/')[0]
    case = Case(REFERENCE / f'{request.param}.json', torch.float32)
    save_file(TOOLS[system][1](case.weights)[0], folder / 'trunk.safetensors')
    trunk, tuner = CASES[request.param]
    text = LEAF.format(trunk=trunk, weights=folder / 'trunk.safetensors', tuner=tuner)
    (folder / 'leaf.py').write_text(text)
    trained = {key: case.weights[key] for key, _, free in case.meta['parameters'] if free}
    torch.save(trained, folder / 'official.pt')
    return Official(folder, system, case, trained)


def test_a_converted_delta_gives_the_logits_of_the_reference_and_goes_back(official, tmp_path):
    delta = official.convert('to-delta', official.folder / 'official.pt', tmp_path / 'delta.pth')
    model = init_model(official.folder / 'leaf.py', delta, 'cpu').double()
    with torch.no_grad():
        logits = model(official.case.inputs['input'].double(), mode='tensor')
    assert abs(logits.numpy() - official.case.arrays['logits_float64']).max() < 1e-12
    back = official.convert('to-official', delta, tmp_path / 'official.pth')
    tensors = torch.load(back, weights_only=True)['model']
    assert tensors.keys() == official.trained.keys()
    assert all(value.equal(official.trained[key]) for key, value in tensors.items())


def test_what_is_missing_or_left_over_is_named(official, tmp_path, capsys):
    key = next(key for key in official.trained if not key.startswith('head.'))
    without = {name: value for name, value in official.trained.items() if name != key}
    extra = {**official.trained, 'blocks.0.gate': torch.ones(1)}
    for tensors, words in ((without, 'missing'), (extra, 'blocks.0.gate')):
        torch.save(tensors, tmp_path / 'other.pt')
        with pytest.raises(SystemExit, match='1'):
            official.convert('to-delta', tmp_path / 'other.pt', tmp_path / 'never.pth')
        assert words in capsys.readouterr().err
        assert not (tmp_path / 'never.pth').exists()


def test_adapters_at_the_mlp_alone_have_no_official_form():
    state = {'backbone.tuner.mlp.0.up.weight': torch.ones(1)}
    with pytest.raises(UserError, match='at the MLP'):
        join_repadapter({}, state)
