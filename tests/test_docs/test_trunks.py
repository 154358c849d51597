"""The code of docs/trunks.md: a leaf with another trunk, and lines for a config of mmseg."""

import contextlib
import io
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope

from hstpeft.apis import list_trunks
from hstpeft.engine.checks.model import check_model
from hstpeft.engine.config import load_config
from tests.support.paths import ROOT

BLOCKS = re.findall(r'^```python\n(.*?)^```$', (ROOT / 'docs/trunks.md').read_text(), re.M | re.S)
PYTHON, LEAF, PLUG_IN = BLOCKS


def test_the_rows_are_printed():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(PYTHON, 'docs/trunks.md', 'exec'), {})
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


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_the_lines_for_mmseg_fit_its_config(tmp_path, need_host):
    need_host('mmseg')
    stock = Path(import_module('mmseg').__file__).parent / '.mim/configs'
    pasted = tmp_path / 'pasted.py'
    pasted.write_text(PLUG_IN.replace('.../mmsegmentation/configs', str(stock)))
    config = Config.fromfile(pasted)
    config.model.backbone.trunk.update(weights=None, arch_options=dict(img_size=64))
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(config.model).eval()
    check_model(model)
    assert model.backbone.out_strides == ((16, 16),) * 4
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64), mode='tensor').shape == (1, 150, 16, 16)
