"""Lines of the README: those for a host's own config, and those for Python."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from hstpeft import apis
from hstpeft.engine.checks.model import check_model
from tests.support.paths import ROOT

PAGE = (ROOT / 'README.md').read_text()
BLOCKS = re.findall(r'^```python\n(.*?)^```$', PAGE, re.M | re.S)
SYSTEMS = ('hst', 'arc', 'sa2vp', 'hma', 'hvt')
(PASTED,) = [block for block in BLOCKS if 'mmpretrain/configs' in block]


def test_a_dinov3_with_two_tuners_fits_a_stock_classifier(tmp_path):
    stock = Path(import_module('mmpretrain').__file__).parent / '.mim/configs'
    pasted = tmp_path / 'pasted.py'
    pasted.write_text(PASTED.replace('.../mmpretrain/configs', str(stock)))
    config = Config.fromfile(pasted)
    config.model.backbone.trunk.weights = None
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.device('meta'):
        model = MODELS.build(config.model).eval()
    check_model(model)
    assert model(torch.zeros(1, 3, 224, 160, device='meta')).shape == (1, 1000)
    assert model.backbone.tuner.kind.split()[0] == 'LoRATuner'
    trained = sum(p.numel() for p in model.backbone.parameters() if p.requires_grad)
    # q and v of rank 8; two norms in each block, and the last one.
    assert trained == 12 * 2 * 8 * (768 + 768) + 25 * 2 * 768
    norm, trunk = config.data_preprocessor, model.backbone.trunk
    assert norm.mean == pytest.approx([255 * value for value in trunk.mean], abs=0.01)
    assert norm.std == pytest.approx([255 * value for value in trunk.std], abs=0.01)


def test_what_it_counts_and_lists_is_there():
    assert f': {len(apis.list_trunks(supported=True))} of timm' in PAGE
    converters = re.search(r'tools/model_converters/\{(.*)\}\.py', PAGE)[1].split(',')
    files = {path.stem for path in (ROOT / 'tools' / 'model_converters').glob('*.py')}
    assert sorted(converters) == sorted(files - {'__init__', 'convert'})
    cases = [path.parent.name for path in (ROOT / 'tests' / 'reference').glob('*/*.npz')]
    told = re.search(r'(\d+) cases of HST.*?, (\d+) of VPT.*?All (\d+) pass', PAGE, re.S)
    systems = [sum(name in SYSTEMS for name in cases), sum(name not in SYSTEMS for name in cases)]
    assert [int(number) for number in told.groups()] == [*systems, len(cases)]


def test_what_python_imports_is_all_that_there_is():
    names = re.search(r'^from hstpeft\.apis import (.*)$', PAGE, re.M)[1].split(', ')
    assert sorted(names) == sorted(set(apis.__all__) - {'get_model'})
