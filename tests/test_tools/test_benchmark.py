"""The benchmark compares equal functions, and counts what autograd keeps."""

import json

import pytest
import torch
from torch import nn

from tools import benchmark
from tools.benchmarks.forms import Setting


@pytest.fixture(scope='module')
def forms():
    torch.manual_seed(0)
    return benchmark.build('hst', Setting('vit_tiny_patch16_224', 2, 224)).models


def test_all_forms_of_hst_are_the_same_function(forms):
    image = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        literal, *ours = (
            forms[name].eval()(image) for name in ('literal', 'hstpeft, MKL', 'hstpeft')
        )
    for logits in ours:
        torch.testing.assert_close(logits, literal, rtol=1e-4, atol=2e-5)


def test_saved_activations_stay_below_the_bound_of_the_literal_form(forms):
    image = torch.randn(2, 3, 224, 224)
    kept = {
        name: benchmark.saved_bytes(forms[name].train(), image) for name in ('literal', 'hstpeft')
    }
    assert 0 < kept['hstpeft'] <= 0.70 * kept['literal']


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
