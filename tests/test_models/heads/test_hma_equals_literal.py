"""HMA's head computes its equations: forward and gradients, in float64."""

import json
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hstpeft.models.heads import HMAClsHead
from hstpeft.official.hma import hma_names
from hstpeft.oracle import recipe
from hstpeft.oracle.literal.hma import HMAOptions, LiteralHMA, hma_shapes, literal_enqueue
from tests.support.models import REFERENCE, draw

LIMIT = 1e-8
DEFAULTS = dict(
    dims=24, label_dims=8, classes=5, heads=4, local=12, per_class=3, batch_attention=True,
    logits_from='all', topk=None, norm=False, null=False, temp=1.0, drop=0.0, batch=6,
)  # fmt: skip
# 4 heads x 6 samples are less than a width of 32 + 6 (folded), 4 x 16 more than 32 + 16 (projected).
CASES = {
    'both memories': dict(),
    'both memories, large batch': dict(batch=16),
    'no global memory': dict(per_class=0),
    'no local memory': dict(local=0),
    'no local memory, large batch': dict(local=0, batch=20),
    'local memory alone': dict(per_class=0, batch_attention=False),
    'nothing to read': dict(local=0, per_class=0, batch_attention=False),
    'batch alone': dict(local=0, per_class=0),
    'logits from the feature': dict(logits_from='feature'),
    'logits from the label': dict(logits_from='label'),
    'top 3': dict(topk=3),
    'top 3, divided by their sum': dict(topk=3, norm=True),
    'top 3 of a large batch, divided by their sum': dict(topk=3, norm=True, batch=16),
    'top 13, all keys of the local memory': dict(topk=13, norm=True),
    'null key': dict(null=True),
    'null key, large batch': dict(null=True, batch=16),
    'null key, top 2': dict(null=True, topk=2),
    'null key, top 2 of a large batch, divided by their sum': dict(
        null=True, topk=2, norm=True, batch=16
    ),
    'sharp softmax': dict(temp=3.0),
    'flat softmax, null key': dict(temp=0.2, null=True),
    'one class': dict(classes=1),
    'two classes': dict(classes=2),
    'one head': dict(heads=1, batch=3),
    'as many heads as dims': dict(heads=32),
    'dropout': dict(drop=0.3),
    'dropout, large batch': dict(drop=0.3, batch=16),
    'one sample': dict(batch=1),
}


def make_pair(case: Mapping) -> tuple[HMAClsHead, LiteralHMA, dict[str, str]]:
    """Build product and literal with the same float64 weights; also own name -> official name."""
    c = {**DEFAULTS, **case}
    shapes = hma_shapes(
        c['dims'], c['label_dims'], c['classes'], c['local'], c['per_class'], c['batch_attention'],
        c['logits_from'], c['null'], dropout_names=True,
    )  # fmt: skip
    official = draw({key: shape for key, shape in shapes.items() if key != 'queue_ptr'}, seed=5)
    if c['local']:
        official['queue_ptr'] = torch.zeros(1, dtype=torch.long)
    options = HMAOptions(
        c['heads'], c['batch_attention'], c['logits_from'], c['topk'], c['norm'], c['temp'],
        c['drop'],
    )  # fmt: skip
    head = HMAClsHead(
        c['classes'], c['dims'], c['logits_from'], label_dims=c['label_dims'],
        local_memory=dict(size=c['local'], update='divisible') if c['local'] else None,
        global_memory_per_class=c['per_class'],
        batch_attention=c['batch_attention'], batch_attention_at_test=True,
        attention=dict(
            num_heads=c['heads'], topk=c['topk'], norm_after_topk=c['norm'], null_kv=c['null'],
            softmax_temp=c['temp'], drop_rate=c['drop'],
        ),
    )  # fmt: skip
    state = head.state_dict()
    names = {k: own.removeprefix('head.') for k, own in hma_names(official).items()}
    names = {official: own for official, own in names.items() if own in state}
    state.update({own: official[key].reshape(state[own].shape) for key, own in names.items()})
    head.load_state_dict(state)
    own_names = {own: key for key, own in names.items()}
    return head.double(), LiteralHMA(official, options).double(), own_names


def features(case: Mapping, seed: int = 0) -> Tensor:
    c = {**DEFAULTS, **case}
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(c['batch'], c['dims'], generator=generator, dtype=torch.float64)


@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
@pytest.mark.parametrize('name', CASES)
def test_forward_and_gradients_equal_the_equations(name, training):
    head, literal, own_names = make_pair(CASES[name])
    inputs = [features(CASES[name]).requires_grad_() for _ in range(2)]
    results = []
    for net, x in zip((literal, head), inputs, strict=True):
        net.train(training)
        torch.manual_seed(11)  # dropout draws the same masks in both
        if net is head:
            # Two passes with the same masks: `read` is what draws.
            samples, _ = head.read((x,), alone=False)
            torch.manual_seed(11)
            logits = head((x,))
        else:
            samples, logits = literal(x)
        probe = torch.linspace(-1, 1, logits.numel(), dtype=x.dtype).view_as(logits)
        (logits * probe).sum().backward()
        results.append((samples, logits, x.grad))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=LIMIT)
    weights = literal.weights()
    for own, parameter in head.named_parameters():
        expected = weights[own_names[own]].grad
        assert (parameter.grad is None) == (expected is None), own
        got = parameter.grad.view_as(expected)
        torch.testing.assert_close(got, expected, rtol=0, atol=LIMIT, msg=own)


@pytest.mark.parametrize('name', ['both memories', 'both memories, large batch'])
def test_the_key_bias_gets_an_exact_zero_without_a_null_key(name):
    head, _, _ = make_pair(CASES[name])
    head((features(CASES[name]),)).square().sum().backward()
    for block in (head.local_read, head.batch_read):
        assert torch.count_nonzero(block.key.bias.grad) == 0
        assert torch.count_nonzero(block.key.weight.grad) > 0


@pytest.mark.parametrize('batch', [1, 3, 4, 5, 12])
def test_a_divisible_queue_is_written_as_the_equations_say(batch):
    head, literal, _ = make_pair(dict(batch=batch))
    before = head.queue.rows.clone()
    for step in range(5):
        x = features(dict(batch=batch), seed=step)
        labels = (torch.arange(batch) + step) % 5
        literal_enqueue(literal.weights(), x, labels)
        head.write((x,), labels)
    assert torch.equal(head.queue.rows, literal.queue)
    assert torch.equal(head.queue.pointer, literal.queue_ptr)
    assert head.queue.rows.equal(before) == (batch == 5)


def reference(case: str) -> tuple[dict, Mapping[str, np.ndarray]]:
    meta = json.loads((REFERENCE / 'hma' / f'{case}.json').read_text())
    return meta, np.load(REFERENCE / 'hma' / f'{case}.npz')


@pytest.mark.parametrize(
    'case',
    ['local16_global3_eval', 'global_only_eval', 'local_only_eval', 'dropout_names_eval'],
)
def test_the_equations_themselves_equal_the_official_code(case):
    meta, arrays = reference(case)
    literal, (x,) = official_literal(meta)
    samples, logits = literal.eval()(x)
    assert np.abs(logits.detach().numpy() - arrays['logits_float64']).max() < 1e-12
    assert np.abs(samples[:, :32].detach().numpy() - arrays['feature']).max() < 1e-5


def test_the_equations_of_the_queue_equal_the_official_code():
    meta, arrays = reference('local16_global3_train3')
    literal, inputs = official_literal(meta)
    labels, weights = torch.tensor(meta['labels']), literal.weights()
    for number, x in enumerate(inputs, start=1):
        target = (labels + number - 1) % 5
        logits = literal(x)[1]
        literal_enqueue(weights, x, target)
        off = literal.queue.numpy() - arrays[f'queue_after_step{number}']
        assert np.abs(off).max() < 1e-5
        assert literal.queue_ptr.tolist() == arrays[f'queue_ptr_after_step{number}'].tolist()
        nn.functional.cross_entropy(logits, target).backward()
        with torch.no_grad():
            for parameter in literal.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
        suffix = '' if number == 1 else f'_step{number}'
        assert np.abs(logits.detach().numpy() - arrays[f'logits{suffix}']).max() < 2e-5


def official_literal(meta: dict) -> tuple[LiteralHMA, list[Tensor]]:
    entries = meta['parameters'] + [e for e in meta['buffers'] if e[2] == 'reference']
    official = draw({key: shape for key, shape, _ in entries}, meta['seed'])
    if 'queue' in official:
        official['queue_ptr'] = torch.zeros(1, dtype=torch.long)
    arguments = meta['arguments']
    options = HMAOptions(arguments['heads'], arguments['abd_augmentation'])
    inputs = [
        torch.from_numpy(recipe.image(name, shape, meta['seed'])).double()
        for name, shape in meta['inputs'].items()
    ]
    return LiteralHMA(official, options).double(), inputs
