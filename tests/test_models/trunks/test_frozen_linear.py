"""The frozen Linear is nn.Linear, by whichever kernel; which one is a rule, not a race."""

import copy

import pytest
import torch
from torch import Tensor, nn

from hstpeft import compat
from hstpeft.errors import UserError
from hstpeft.models.trunks import frozen_linear
from hstpeft.models.trunks.frozen_linear import FrozenLinear, wrap_linears

WIDTHS, ROWS = (128, 256), 64
AMD = 'processor : 0\nvendor_id : AuthenticAMD\n'
INTEL = 'processor : 0\nvendor_id : GenuineIntel\n'


@pytest.fixture(autouse=True)
def _forget_the_choice(monkeypatch):
    """Each test is a process that has not chosen yet, on a processor of AMD."""
    monkeypatch.delenv('HSTPEFT_ONEDNN', raising=False)
    monkeypatch.setattr(frozen_linear, '_processor', lambda: AMD)
    frozen_linear._prefers_onednn.cache_clear()
    yield
    frozen_linear._prefers_onednn.cache_clear()


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """Products that oneDNN computed; a stand-in of the same numbers where torch has none."""
    done = []
    real = compat.onednn_linear() or nn.functional.linear

    def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        done.append('product')
        return real(x, weight, bias)

    monkeypatch.setattr(frozen_linear, 'onednn_linear', lambda: product)
    return done


def pair(bias: bool = True) -> tuple[nn.Linear, FrozenLinear]:
    plain = nn.Linear(*WIDTHS, bias=bias).requires_grad_(False)
    return plain, FrozenLinear.wrap(copy.deepcopy(plain))


def run(linear: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output, and the gradient of the input for a fixed gradient of the output."""
    x = x.clone().requires_grad_()
    y = linear(x)
    y.backward(torch.linspace(-1, 1, y.numel()).view_as(y))
    return y.detach(), x.grad


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('shape', [(ROWS,), (4, 16), (2, 4, 8)])
def test_onednn_gives_output_and_gradient_of_the_plain_linear(calls, bias, shape):
    plain, frozen = pair(bias)
    x = torch.randn(*shape, WIDTHS[0])
    for ours, expected in zip(run(frozen, x), run(plain, x), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    assert len(calls) == 2
    assert frozen.weight.grad is None


@pytest.mark.parametrize(
    'gradient',
    [
        torch.ones(()).expand(ROWS, WIDTHS[1]),
        torch.linspace(-1, 1, ROWS * WIDTHS[1]).view(WIDTHS[1], ROWS).t(),
        torch.linspace(-1, 1, 2 * ROWS * WIDTHS[1]).view(ROWS, -1)[:, ::2],
    ],
    ids=['expanded', 'transposed', 'strided'],
)
def test_a_gradient_that_is_not_contiguous_is_read_right(calls, gradient):
    plain, frozen = pair()
    x = torch.randn(ROWS, WIDTHS[0])
    grads = []
    for linear in (plain, frozen):
        leaf = x.clone().requires_grad_()
        linear(leaf).backward(gradient)
        grads.append(leaf.grad)
    torch.testing.assert_close(grads[1], grads[0], atol=1e-5, rtol=1e-5)
    assert len(calls) == 2


def test_only_the_weight_is_kept_for_the_backward_pass(calls):
    frozen = pair()[1]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        frozen(torch.randn(ROWS, WIDTHS[0], requires_grad=True))
    assert [tensor.shape for tensor in kept] == [frozen.weight.shape]


def test_two_passes_are_bit_equal(calls):
    frozen = pair()[1]
    x = torch.randn(ROWS, WIDTHS[0])
    for first, second in zip(run(frozen, x), run(frozen, x), strict=True):
        assert torch.equal(first, second)


def no_onednn(monkeypatch):
    monkeypatch.setattr(frozen_linear, 'onednn_linear', lambda: None)


def another_maker(monkeypatch):
    monkeypatch.setattr(frozen_linear, '_processor', lambda: INTEL)


def switched_off(monkeypatch):
    monkeypatch.setenv('HSTPEFT_ONEDNN', '0')


def switched_off_in_torch(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, 'enabled', False)


@pytest.mark.parametrize('without', [no_onednn, another_maker, switched_off, switched_off_in_torch])
def test_without_onednn_it_is_the_plain_linear_bit_for_bit(calls, monkeypatch, without):
    plain, frozen = pair()
    without(monkeypatch)
    x = torch.randn(ROWS, WIDTHS[0])
    for ours, expected in zip(run(frozen, x), run(plain, x), strict=True):
        assert torch.equal(ours, expected)
    assert not calls


def test_no_rows_other_dtypes_autocast_and_training_are_plain(calls):
    plain, frozen = pair()
    x = torch.randn(ROWS, WIDTHS[0])
    assert torch.equal(frozen(x[:0]), plain(x[:0]))
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(frozen(x), plain(x))
    frozen.requires_grad_(True)(x).sum().backward()
    assert frozen.weight.grad is not None
    frozen.requires_grad_(False).double()(x.double())
    assert not calls


def test_the_environment_overrules_the_processor(calls, monkeypatch):
    another_maker(monkeypatch)
    monkeypatch.setenv('HSTPEFT_ONEDNN', '1')
    pair()[1](torch.randn(ROWS, WIDTHS[0]))
    assert len(calls) == 1


def test_an_unknown_choice_is_a_user_error(calls, monkeypatch):
    monkeypatch.setenv('HSTPEFT_ONEDNN', 'fast')
    with pytest.raises(UserError, match=r'HSTPEFT_ONEDNN=fast must be 1'):
        pair()[1](torch.randn(ROWS, WIDTHS[0]))


def test_a_compiler_chooses_its_own_kernels(calls):
    plain, frozen = pair()
    x = torch.randn(ROWS, WIDTHS[0])
    compiled = torch.compile(frozen, backend='eager', fullgraph=True)
    assert torch.equal(compiled(x), plain(x))
    assert not calls


def test_wrapping_keeps_the_tensors_and_leaves_other_linears_alone():
    class Other(nn.Linear):
        pass

    module = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3, bias=False)), Other(3, 1))
    weights = [parameter.data_ptr() for parameter in module.parameters()]
    wrap_linears(module)
    assert [type(m) for m in (module[0], module[1][0], module[2])] == [FrozenLinear] * 2 + [Other]
    assert [parameter.data_ptr() for parameter in module.parameters()] == weights
