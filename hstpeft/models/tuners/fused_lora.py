"""Low-rank products beside single thirds of a Linear that makes queries, keys and values.

Shapes: I input width and O output width of the Linear, R rank.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

THIRDS = ('q', 'k', 'v')
"""What a fused qkv consists of, in the order of its rows."""


class FusedLoRA(nn.Module):
    """Products beside some thirds of the rows of a fused qkv: zero for the others.

    Args:
        qkv: The Linear; O is three times a third.
        names: Of `THIRDS`, in their order.
        rank: R.
        alpha: The products are scaled by ``alpha / rank``.
        drop_rate: Dropout of the input, in training.
    """

    def __init__(
        self, qkv: nn.Module, names: Sequence[str], rank: int, alpha: float, drop_rate: float
    ) -> None:
        super().__init__()
        self.scale = alpha / rank
        outputs, inputs = qkv.weight.shape
        self.drop = nn.Dropout(drop_rate)
        for name in names:
            self.add_module(name, _Factors(inputs, outputs // len(THIRDS), rank))

    def forward(self, output: Tensor, given: Tensor) -> Tensor:
        """Add the products of the input (..., I) to the output (..., O) of the Linear."""
        thirds = list(output.chunk(len(THIRDS), dim=-1))
        for row, factors in self._rows():
            low = F.linear(self.drop(given.to(factors.lora_A.dtype)), factors.lora_A)
            product = self.scale * F.linear(low, factors.lora_B)
            thirds[row] = thirds[row] + product.to(output.dtype)
        return torch.cat(thirds, dim=-1)

    def add_to(self, weight: nn.Parameter) -> None:
        """Add the products to the weight (O, I), in place and in double precision."""
        merged = weight.detach().double()
        thirds = merged.chunk(len(THIRDS))
        for row, factors in self._rows():
            b, a = (factor.detach().double() for factor in (factors.lora_B, factors.lora_A))
            thirds[row].add_(self.scale * b @ a)
        weight.data = merged.to(weight.dtype)

    def _rows(self) -> Iterator[tuple[int, nn.Module]]:
        """Give the number of each adapted third with its factors."""
        own = dict(self.named_children())
        return ((row, own[name]) for row, name in enumerate(THIRDS) if name in own)


class _Factors(nn.Module):
    """A (R, I), drawn as peft draws it, and B (O, R) of zeros."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(torch.empty(rank, inputs))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
