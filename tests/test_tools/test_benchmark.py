"""The benchmark compares equal functions, and counts what autograd keeps."""

import json

import pytest
import torch
from torch import nn

from tools import benchmark
from tools.benchmarks.forms import Setting

SETTING = Setting('vit_tiny_patch16_224', batch=2, size=224)
OTHERS = {'timm trunk', 'bare trunk', 'floor, MKL', 'floor'}
SAVED = dict(hst=0.70, sa2vp=0.45)


@pytest.fixture(
    scope='module',
    params=[
        pytest.param(name, marks=[pytest.mark.slow] * (name != 'hst')) for name in benchmark.SYSTEMS
    ],
)
def system(request):
    torch.manual_seed(0)
    return request.param, benchmark.build(request.param, SETTING)


def test_all_forms_of_a_system_are_the_same_function(system):
    _, forms = system
    same = [name for name in forms.models if name not in OTHERS]
    with torch.inference_mode():
        literal, *ours = (forms.models[name].eval()(forms.inputs) for name in same)
    assert same[0] == 'literal' and ours
    for logits in ours:
        torch.testing.assert_close(logits, literal, rtol=1e-4, atol=2e-5)


def test_saved_activations_stay_below_the_bound_of_the_literal_form(system):
    name, forms = system
    if name not in SAVED:
        pytest.skip('no bound is promised')
    kept = {
        form: benchmark.saved_bytes(forms.models[form].train(), forms.inputs)
        for form in ('literal', 'hstpeft')
    }
    assert 0 < kept['hstpeft'] <= SAVED[name] * kept['literal']


def test_saved_bytes_counts_each_storage_once_and_no_parameter():
    layer = nn.Linear(4, 4, bias=False)
    image = torch.randn(8, 4)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            x = self.layer(x)  # keeps the image and the weight: neither counts
            return x.sigmoid() * x.sigmoid().detach()  # keeps two results of 8 x 4 floats

    assert benchmark.saved_bytes(Twice(), image) == 2 * 8 * 4 * 4


@pytest.mark.slow
def test_the_tool_writes_its_timings(tmp_path, capsys):
    out = tmp_path / 'cost.json'
    arguments = (
        '--arch vit_tiny_patch16_224 --batch 2 --size 224 --threads 1 --repeats 1 --warmup 0'
    )
    benchmark.main([*arguments.split(), '--out', str(out)])
    results = json.loads(out.read_text())['results']
    assert set(results) == {
        'literal', 'hstpeft, MKL', 'hstpeft', 'timm trunk', 'floor, MKL', 'floor'
    }  # fmt: skip
    assert all(len(values['inference_s']) == 1 for values in results.values())
    assert 'training step' in capsys.readouterr().out
