"""A Linear that is fast while it is frozen.

Shapes: I input width, O output width.
"""

import functools
import os
import platform
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hstpeft.compat import onednn_linear
from hstpeft.errors import UserError


class FrozenLinear(nn.Linear):
    """`nn.Linear` whose frozen float32 form runs through oneDNN on a CPU where that is faster.

    torch sends float32 Linears to MKL. On one AMD EPYC (Zen 2 or 3) and on a Zen 5 that reached
    about half of oneDNN's speed, on a Zen 4 the two were within 10 %; no other maker's processor
    was measured. Both are float32 throughout. A frozen weight needs only the two products with
    it, so nothing but the weight is kept for the backward pass.

    oneDNN is taken by a fixed rule: on a processor of AMD, if torch has the operator. Everything
    else is the plain Linear, as are trainable ones, those on a GPU, in another dtype, under autocast
    or `torch.compile`. Nothing is timed in the process, by shape or once: the two sum in different
    orders, so a choice that hung on a timing would make two runs of one seed differ, and a resumed
    run from an unbroken one. Small products are no exception, though oneDNN loses there (below 2^21
    multiply-adds, 1.2 times MKL's time on a Zen 5): it is microseconds, and a bound would give every
    delta of a small model other last digits than it was trained with.

    The environment variable ``HSTPEFT_ONEDNN`` overrules the processor, 1 (take oneDNN) or 0
    (never); `tools/benchmark.py` shows which is faster. Leave it as it is within one training.
    """

    @classmethod
    def wrap(cls, linear: nn.Linear) -> 'FrozenLinear':
        """Take over the tensors of a Linear."""
        frozen = cls(linear.in_features, linear.out_features, linear.bias is not None, 'meta')
        frozen.weight, frozen.bias = linear.weight, linear.bias
        return frozen

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., I) to (..., O)."""
        frozen = not (
            self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)
        )
        if frozen and _suits_onednn(x, self.weight) and _prefers_onednn():
            return _OneDNNLinear.apply(x, self.weight, self.bias)
        return super().forward(x)


def wrap_linears(module: nn.Module) -> None:
    """Replace every plain Linear below ``module`` by a `FrozenLinear` with the same tensors."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, FrozenLinear.wrap(child))
        else:
            wrap_linears(child)


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        # No view, which what stands on the layer (some of peft's) could not change in place.
        return onednn_linear()(x, weight, bias).data

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return onednn_linear()(gradient, weight.t(), None), None, None


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == 'cpu'
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled('cpu')
        and not torch.compiler.is_compiling()
    )


@functools.cache
def _prefers_onednn() -> bool:
    """Whether this process takes oneDNN for products that suit it."""
    choice = os.environ.get('HSTPEFT_ONEDNN', '')
    if choice not in ('', '0', '1'):
        raise UserError(f'HSTPEFT_ONEDNN={choice} must be 1 (take oneDNN), 0 (never) or unset')
    wanted = choice == '1' if choice else 'AuthenticAMD' in _processor()
    return wanted and onednn_linear() is not None


def _processor() -> str:
    """Describe the processor, its maker included."""
    info = Path('/proc/cpuinfo')
    return info.read_text() if info.is_file() else platform.processor()
