"""`tools/delta.py` on LoRA: info, export, import and merge of a delta of the shipped part."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hstpeft.apis import init_model
from tests.support import models, tiny
from tools.delta import main

FACTORS = {
    f'backbone.trunk.vit.blocks.{index}.attn.qkv.lora_{factor}.default.weight'
    for index in range(4)
    for factor in 'AB'
}
# A (8, 32) and B (96, 8) in each of four blocks.
VALUES = 4 * (8 * 32 + 96 * 8)


@pytest.fixture
def leaf(tmp_path) -> Path:
    """Write a trunk and a leaf that takes the shipped tuner."""
    weights = tmp_path / 'trunk.safetensors'
    save_file(models.vit_weights(), weights)
    backbone = dict(type='hstpeft.TunedBackbone', trunk=models.trunk_config(str(weights)))
    head = dict(type='LinearClsHead', num_classes=5, in_channels=32)
    model = dict(type='ImageClassifier', backbone=backbone, head=head)
    path = tmp_path / 'leaf.py'
    path.write_text(
        f'_base_ = {str(tiny.ROOT / "configs/_base_/tuners/lora.py")!r}\n'
        "default_scope = 'mmpretrain'\n"
        f'model = {model!r}\n'
        "model['backbone']['tuner'] = _base_.tuner\n"
    )
    return path


@pytest.fixture
def delta(leaf) -> Path:
    """Write the delta of drawn products."""
    model = init_model(leaf, None, 'cpu')
    models.redraw(model, seed=1)
    path = leaf.with_name('delta.pth')
    torch.save({'state_dict': model.state_dict()}, path)
    return path


def features(leaf: Path, delta: Path | None, options: dict | None = None) -> torch.Tensor:
    with torch.no_grad():
        return init_model(leaf, delta, 'cpu', options or {}).backbone(models.images(2, 3, 32, 32))[
            0
        ]


def test_info_says_what_the_delta_holds(delta, capsys):
    main(['info', str(delta)])
    shown = capsys.readouterr().out
    assert re.search(rf'backbone\.trunk\W+{len(FACTORS)}\W+{VALUES:,}\W', shown)
    assert 'tuner: LoRATuner (alpha=8)' in shown


def test_export_and_import_keep_every_bit(leaf, delta, tmp_path):
    exported, imported = tmp_path / 'out.safetensors', tmp_path / 'again.pth'
    main(['export', str(delta), str(exported)])
    head = {'head.fc.weight', 'head.fc.bias'}
    assert load_file(exported).keys() == FACTORS | head | {'backbone._extra_state'}
    assert json.loads(exported.with_suffix('.json').read_text())['tuner'] == 'LoRATuner (alpha=8)'
    main(['import', str(exported), str(imported)])
    assert features(leaf, imported).equal(features(leaf, delta))


def test_merge_writes_a_trunk_that_gives_the_same_features_alone(leaf, delta, tmp_path, capsys):
    output = tmp_path / 'merged.safetensors'
    main(['merge', str(leaf), str(delta), str(output)])
    change = float(re.search(r'max\|delta logit\| = (\S+)', capsys.readouterr().out)[1])
    assert change < 1e-4
    before, merged = load_file(tmp_path / 'trunk.safetensors'), load_file(output)
    assert merged.keys() == before.keys()
    moved = {key for key in merged if not merged[key].equal(before[key])}
    assert moved == {f'blocks.{index}.attn.qkv.weight' for index in range(4)}
    # Fresh products are zero, so LoRA on the merged trunk is the merged trunk.
    plain = features(leaf, None, {'model.backbone.trunk.weights': str(output)})
    torch.testing.assert_close(plain, features(leaf, delta), rtol=0, atol=1e-4)
    assert (features(leaf, None) - plain).abs().max() > 0.1
