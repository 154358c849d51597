"""Multi-cognitive visual adapters, Mona (https://arxiv.org/abs/2408.08345).

Shapes: B batch, L tokens, C width of a block, R width of an adapter, h w grid of a block.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.errors import check_least, check_rate
from hstpeft.models.trunks import Places, Trunk
from hstpeft.models.trunks.layout import Layout
from hstpeft.models.tuners.base import Tuner
from hstpeft.models.tuners.spatial import convolve_tokens
from hstpeft.registry import MODELS

KERNELS = (3, 5, 7)


@MODELS.register_module()
class MonaTuner(Tuner):
    """Two convolutional adapters a block, on the residual stream: behind attention and MLP.

    ``z = down(gamma * LN(x) + gammax * x)``, then, on the map,
    ``z = z + (dw3(z) + dw5(z) + dw7(z)) / 3`` and ``z = z + projector(z)``, and
    ``M(x) = x + up(dropout(GELU(z)))``. The dw are depthwise convolutions, padded with zeros, the
    projector is one of 1 x 1; LN has eps 1e-5. In a Swin M sees the whole map, not windows.

    The paper has Swin only. On a ViT every token that is no patch (class token, registers, those of
    another tuner) is a 1 x 1 map of its own here: it sees the centre taps and the biases.

    gamma is 1e-6 and gammax 1 at first, ``down`` and ``up`` are normal with deviation 0.02 and have
    biases of 0, convolutions start as PyTorch's: training does not start exactly from the
    pre-trained function.

    The official backbone is the Swin of detectors: give the trunk ``detection_style=True`` to get
    the same numbers where a window covers a map or does not divide it. All of a trunk is frozen.

    Trainable values: ``2 C R + 5 C + R^2 + 88 R`` per adapter; 3,667,456 for a Swin-B, 2,684,928
    for a ViT-B/16.

    Args:
        adapter_dims: R.
        drop_rate: Dropout inside the adapters.

    Raises:
        UserError: An option is out of its range; or the trunk has no maps (HVT).
    """

    needs = ('maps',)

    def __init__(self, adapter_dims: int = 64, drop_rate: float = 0.1) -> None:
        super().__init__()
        check_least('tuner.adapter_dims', adapter_dims, 1)
        check_rate('tuner.drop_rate', drop_rate)
        self.adapter_dims, self.drop_rate = adapter_dims, drop_rate

    def attach(self, trunk: Trunk) -> None:
        """Build the two adapters of every block."""
        self.attention, self.mlp = (
            nn.ModuleList(
                Mona(dims, self.adapter_dims, self.drop_rate) for dims in trunk.block_dims
            )
            for _ in range(2)
        )

    def at(self, layout: Layout) -> Places:
        """Return the adapters where the patches are."""
        return _Adapters(self, layout)


class _Adapters(Places):
    """The places of a `MonaTuner` for images of one size."""

    def __init__(self, tuner: MonaTuner, layout: Layout) -> None:
        self.tuner, self.layout = tuner, layout

    def before_mlp_norm(self, index: int, tokens: Tensor) -> Tensor:
        """Adapt the stream behind the attention."""
        return self.tuner.attention[index](index, tokens, self.layout)

    def after_block(self, index: int, tokens: Tensor) -> Tensor:
        """Adapt the stream behind the MLP, which no earlier place sees as a whole."""
        return self.tuner.mlp[index](index, tokens, self.layout)


class Mona(nn.Module):
    """One adapter.

    Args:
        dims: C.
        inner: R.
        drop_rate: Dropout before ``up``.
    """

    def __init__(self, dims: int, inner: int, drop_rate: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dims)
        self.gamma = nn.Parameter(torch.full((dims,), 1e-6))
        self.gammax = nn.Parameter(torch.ones(dims))
        self.down, self.up = nn.Linear(dims, inner), nn.Linear(inner, dims)
        self.convs = nn.ModuleList(
            nn.Conv2d(inner, inner, size, padding=size // 2, groups=inner) for size in KERNELS
        )
        self.projector = nn.Conv2d(inner, inner, 1)
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        self.drop_rate = drop_rate

    def forward(self, index: int, tokens: Tensor, layout: Layout) -> Tensor:
        """Map the stream (B, L, C) or (B, h, w, C) of block ``index`` to the same shape."""
        wide = tokens.to(self.down.weight.dtype)
        hidden = self.down(self.norm(wide) * self.gamma + wide * self.gammax)
        hidden = hidden + convolve_tokens(layout, index, hidden, *self.mean_kernel())
        hidden = hidden + F.linear(hidden, self.projector.weight.flatten(1), self.projector.bias)
        hidden = F.dropout(F.gelu(hidden), self.drop_rate, self.training)
        return tokens + self.up(hidden).to(tokens.dtype)

    def mean_kernel(self) -> tuple[Tensor, Tensor]:
        """Return weight (R, 1, 7, 7) and bias (R) of the mean of the three convolutions.

        They are linear, and a small kernel is a large one with a border of zeros: so it is one
        convolution, at about half the time of three (a CPU core, forward and backward).
        """
        borders = [(KERNELS[-1] - size) // 2 for size in KERNELS]
        weights = [
            F.pad(conv.weight, (border,) * 4)
            for conv, border in zip(self.convs, borders, strict=True)
        ]
        bias = torch.stack([conv.bias for conv in self.convs]).mean(dim=0)
        return torch.stack(weights).mean(dim=0), bias
