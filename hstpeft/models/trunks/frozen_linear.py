"""A Linear that is fast while it is frozen.

Shapes: I input width, O output width.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class FrozenLinear(nn.Linear):
    """`nn.Linear` whose frozen float32 form runs through oneDNN on the CPU.

    torch sends float32 Linears to MKL, which on processors of other makers reaches about half of
    what oneDNN's kernels do; both are exact float32. A frozen weight needs only the two products
    with it, so nothing but the weight is kept for the backward pass. Trainable, on a GPU, in
    another dtype, or under autocast it is the plain Linear.
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
        if frozen and _suits_onednn(x, self.weight):
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
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _product(gradient.contiguous(), weight.t(), None), None, None


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == 'cpu'
        and x.dtype == weight.dtype == torch.float32
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled('cpu')
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')
