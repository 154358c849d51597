"""The code of docs/trunks.md: rows of the table, and a leaf with another trunk."""

import contextlib
import io
import re

import torch
from mmengine.registry import MODELS, init_default_scope

from hstpeft.apis import list_trunks
from hstpeft.engine.checks.model import check_model
from hstpeft.engine.config import load_config
from tests.support.paths import ROOT

BLOCKS = re.findall(r'^```python\n(.*?)^```$', (ROOT / 'docs/trunks.md').read_text(), re.M | re.S)
ROWS, LEAF, _ = BLOCKS


def test_the_rows_are_printed():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(ROWS, 'docs/trunks.md', 'exec'), {})
    lines = printed.getvalue().splitlines()
    assert len(lines) == len(list_trunks('dinov3', supported=True)) + 1
    assert lines[0].startswith('vit_7b_patch16_dinov3 hstpeft.EvaTrunk True True')


def test_a_leaf_swaps_the_part_of_the_trunk(tmp_path):
    leaf = tmp_path / 'leaf.py'
    leaf.write_text(LEAF.replace('../_base_', f'{ROOT}/configs/_base_'))
    config = load_config(leaf)
    assert config.model.data_preprocessor.mean == [123.675, 116.28, 103.53]
    config.model.backbone.trunk.weights = None
    init_default_scope('mmpretrain')
    with torch.device('meta'):
        model = MODELS.build(config.model)
    check_model(model)
    assert model.backbone.out_channels == (768,) and model.head.in_channels == 768
