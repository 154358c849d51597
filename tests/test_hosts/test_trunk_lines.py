"""The lines of docs/trunks.md for mmsegmentation, pasted into its own config."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from hstpeft.engine.checks.model import check_model
from tests.support.paths import ROOT

pytestmark = [pytest.mark.host, pytest.mark.slow]
PAGE = (ROOT / 'docs' / 'trunks.md').read_text()
(LINES,) = re.findall(r"^```python\n(_base_ = \['\.\.\./mmseg.*?)^```$", PAGE, re.M | re.S)


def test_a_rotary_trunk_with_a_pyramid_fits_upernet(tmp_path, need_host):
    need_host('mmseg')
    stock = Path(import_module('mmseg').__file__).parent / '.mim/configs'
    pasted = tmp_path / 'pasted.py'
    pasted.write_text(LINES.replace('.../mmsegmentation/configs', str(stock)))
    config = Config.fromfile(pasted)
    config.model.backbone.trunk.weights = None
    with DefaultScope.overwrite_default_scope('mmseg'), torch.device('meta'):
        model = MODELS.build(config.model).eval()
    check_model(model)
    assert model.backbone.out_strides == ((16, 16),) * 4
    shape = model(torch.zeros(1, 3, 90, 77, device='meta'), mode='tensor').shape
    assert shape == (1, 150, 24, 20)
    norm, trunk = config.model.data_preprocessor, model.backbone.trunk
    assert norm.mean == pytest.approx([255 * value for value in trunk.mean])
    assert norm.std == pytest.approx([255 * value for value in trunk.std])
