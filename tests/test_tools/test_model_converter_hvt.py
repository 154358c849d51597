"""tools/model_converters/hvt.py, on the weights of a reference case; and on to another tuner."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hstpeft.apis import init_model
from hstpeft.oracle.case import Case
from tests.support.paths import REFERENCE
from tools import delta as delta_tool
from tools.model_converters.hvt import main

LEAF = """
default_scope = 'mmpretrain'
options = dict(img_size=64, patch_size=8, embed_dim=64, depth=12, num_heads=4)
trunk = dict(type='hstpeft.HVTTrunk', arch='hvt_s_1', arch_options=options, pool_width={width})
model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='hstpeft.TunedBackbone', trunk=trunk, tuner=dict(type='hstpeft.FullTuner')),
    head=dict(type='mmpretrain.LinearClsHead', num_classes=10, in_channels=64),
)
"""
CASES = {3: 'pool_every3_train', 12: 'pool_every12_eval'}


@pytest.fixture(scope='module', params=CASES)
def official(request, tmp_path_factory) -> tuple[Path, Case]:
    """A folder with a config and an official checkpoint, and the case that they are of."""
    folder = tmp_path_factory.mktemp('official')
    case = Case(REFERENCE / 'hvt' / f'{CASES[request.param]}.json', torch.float32)
    (folder / 'leaf.py').write_text(LEAF.format(width=request.param))
    torch.save({'model': case.weights, 'epoch': 3}, folder / 'official.pth')
    return folder, case


def convert(direction: str, leaf: Path, source: Path, output: Path) -> Path:
    main([direction, str(leaf), str(source), str(output)])
    return output


def test_round_trip_is_exact_and_gives_the_logits_of_the_reference(official, tmp_path):
    folder, case = official
    leaf = folder / 'leaf.py'
    delta = convert('to-delta', leaf, folder / 'official.pth', tmp_path / 'delta.pth')
    back = convert('to-official', leaf, delta, tmp_path / 'official.pth')
    tensors = torch.load(back, weights_only=True)['model']
    assert tensors.keys() == case.weights.keys()
    assert all(tensors[key].equal(value) for key, value in case.weights.items())
    model = init_model(leaf, delta, 'cpu')
    with torch.no_grad():
        logits = model(case.inputs['input'], mode='tensor')
    assert abs(logits.numpy() - case.arrays['logits']).max() < 2e-5


def test_merged_it_is_a_trunk_for_other_tuners(official, tmp_path, capsys):
    folder, case = official
    leaf, merged = folder / 'leaf.py', tmp_path / 'trunk.safetensors'
    delta = convert('to-delta', leaf, folder / 'official.pth', tmp_path / 'delta.pth')
    delta_tool.main(['merge', str(leaf), str(delta), str(merged)])
    assert 'max|delta logit| = 0.0e+00' in capsys.readouterr().out
    assert load_file(merged).keys() == case.weights.keys() - {'head.weight', 'head.bias'}
    changes = {
        'model.backbone.trunk.weights': str(merged),
        'model.backbone.tuner.type': 'hstpeft.FrozenTuner',
    }
    probe = init_model(leaf, None, 'cpu', changes)
    with torch.no_grad():
        (feature,) = probe.backbone(case.inputs['input'])
    assert abs(feature.numpy() - case.arrays['feature']).max() < 2e-5


def refusal(direction: str, leaf: Path, source: Path, tmp_path: Path, capsys) -> str:
    output = tmp_path / 'never.pth'
    with pytest.raises(SystemExit, match='1'):
        convert(direction, leaf, source, output)
    assert not output.exists()
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith('hvt.py: error: ')
    return line


def test_what_does_not_fit_is_refused(official, tmp_path, capsys):
    folder, case = official
    leaf, path = folder / 'leaf.py', tmp_path / 'official.pth'
    headless = {key: value for key, value in case.weights.items() if key != 'head.bias'}
    torch.save({'model': headless}, path)
    assert "missing ['head.bias']" in refusal('to-delta', leaf, path, tmp_path, capsys)
    short = {key: value for key, value in case.weights.items() if key != 'blocks.0.pos_embed'}
    torch.save({'model': short}, path)
    line = refusal('to-delta', leaf, path, tmp_path, capsys)
    assert 'missing: backbone.trunk.vit.blocks.0.pos_embed' in line
    reshaped = {**case.weights, 'pos_embed': torch.ones(1, 49, 64)}
    torch.save({'model': reshaped}, path)
    line = refusal('to-delta', leaf, path, tmp_path, capsys)
    assert 'backbone.trunk.vit.pos_embed (1, 49, 64) instead of (1, 64, 64)' in line


def test_a_checkpoint_that_pools_more_often_is_refused(tmp_path, capsys):
    case = Case(REFERENCE / 'hvt' / f'{CASES[3]}.json', torch.float32)
    torch.save({'model': case.weights}, tmp_path / 'official.pth')
    (tmp_path / 'leaf.py').write_text(LEAF.format(width=12))
    line = refusal('to-delta', tmp_path / 'leaf.py', tmp_path / 'official.pth', tmp_path, capsys)
    assert 'blocks.3.pos_embed' in line and 'are not in the trunk' in line
