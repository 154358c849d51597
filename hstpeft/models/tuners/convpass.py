"""Convolutional bypasses, Convpass (https://arxiv.org/abs/2207.07039).

Shapes: B batch, L tokens, C width of a block, R width of a bypass, h w grid of a block.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.errors import check_choice, check_least, check_names, check_rate
from hstpeft.models.trunks import Places, Trunk
from hstpeft.models.trunks.layers import BRANCHES
from hstpeft.models.trunks.layout import Layout
from hstpeft.models.tuners.base import Tuner
from hstpeft.models.tuners.spatial import convolve_tokens
from hstpeft.registry import MODELS


@MODELS.register_module()
class ConvpassTuner(Tuner):
    """A bottleneck with a convolution in it, beside the attention and the MLP of every block.

    ``B(z) = up(dropout(g(conv(g(down(z))))))`` reads what the branch reads, the normalised tokens,
    and ``scale * B(z)`` is added to what the branch gives; g is the quick GELU,
    ``t * sigmoid(1.702 t)``. The convolution (3 x 3, all channels, padded with zeros) runs over the
    patches on their grid; every other token, a class token or one of another tuner, is a 1 x 1 map
    of its own. In a Swin it runs over the whole map, whatever the windows.

    ``down`` is Xavier uniform at first, ``up`` and all biases are zero, so that training starts
    exactly from the pre-trained function. In training a bypass is dropped at the drop path rate of
    its block, independently of the branch, as officially.

    Trainable values: ``2 C R + C + 9 R^2 + 2 R`` per bypass; 327,552 for a ViT-B/16 with the
    default options, 163,776 with ``positions=('attention',)``.

    Args:
        positions: What gets a bypass: ``attention``, ``mlp`` or both.
        adapter_dims: R.
        scale: Factor of the bypasses' outputs.
        conv_init: The convolution at first: ``identity`` (1 in the centre tap of a channel's own)
            or ``xavier`` (uniform).
        drop_rate: Dropout inside the bypasses.

    Raises:
        UserError: An option is out of its range; or the trunk has no maps (HVT).
    """

    needs = ('maps',)

    def __init__(
        self,
        positions: Sequence[str] = BRANCHES,
        adapter_dims: int = 8,
        scale: float = 1.0,
        conv_init: str = 'identity',
        drop_rate: float = 0.1,
    ) -> None:
        super().__init__()
        self.positions = check_names('tuner.positions', positions, BRANCHES)
        check_least('tuner.adapter_dims', adapter_dims, 1)
        check_choice('tuner.conv_init', conv_init, ('identity', 'xavier'))
        check_rate('tuner.drop_rate', drop_rate)
        self.adapter_dims, self.scale, self.conv_init = adapter_dims, scale, conv_init
        self.drop_rate = drop_rate

    def attach(self, trunk: Trunk) -> None:
        """Build the bypasses of every block."""
        rates = [drop_path_rate(trunk, index) for index in range(trunk.num_layers)]
        for position in self.positions:
            bypasses = nn.ModuleList(
                Bypass(dims, self.adapter_dims, self.conv_init, self.drop_rate, rate)
                for dims, rate in zip(trunk.block_dims, rates, strict=True)
            )
            self.add_module(position, bypasses)

    def description(self) -> dict[str, Any]:
        """Return positions and scale."""
        return {'positions': self.positions, 'scale': self.scale}

    def at(self, layout: Layout) -> Places:
        """Return the bypasses where the patches are."""
        return _Bypasses(self, layout)

    def bypass(
        self, position: str, index: int, branch: Tensor, normed: Tensor, layout: Layout
    ) -> Tensor:
        """Add a bypass, if there is one, to what a branch gives.

        Args:
            position: ``attention`` or ``mlp``.
            index: Number of the block.
            branch: What the branch gave (..., C).
            normed: What it read (..., C).
            layout: Tells the patches.
        """
        if position not in self.positions:
            return branch
        added = self.get_submodule(position)[index](index, normed, layout)
        return branch + (self.scale * added).to(branch.dtype)


class _Bypasses(Places):
    """The places of a `ConvpassTuner` for images of one size."""

    def __init__(self, tuner: ConvpassTuner, layout: Layout) -> None:
        self.tuner, self.layout = tuner, layout

    @property
    def acting_places(self) -> frozenset[str]:
        """Those behind the branches that have bypasses."""
        return frozenset(f'after_{position}' for position in self.tuner.positions)

    def after_attention(self, index: int, branch: Tensor, normed: Tensor) -> Tensor:
        """Add the bypass of the attention."""
        return self.tuner.bypass('attention', index, branch, normed, self.layout)

    def after_mlp(self, index: int, branch: Tensor, normed: Tensor) -> Tensor:
        """Add the bypass of the MLP."""
        return self.tuner.bypass('mlp', index, branch, normed, self.layout)


class Bypass(nn.Module):
    """Down, convolution, up, with a quick GELU before and behind the convolution.

    Args:
        dims: C.
        inner: R.
        conv_init: ``identity`` or ``xavier``.
        drop_rate: Dropout before ``up``.
        drop_path_rate: Of the whole.
    """

    def __init__(
        self, dims: int, inner: int, conv_init: str, drop_rate: float, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(dims, inner), nn.Linear(inner, dims)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1)
        nn.init.xavier_uniform_(self.down.weight)
        if conv_init == 'xavier':
            nn.init.xavier_uniform_(self.conv.weight)
        else:
            nn.init.dirac_(self.conv.weight)
        for parameter in (self.down.bias, self.conv.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)
        self.drop_rate, self.drop_path = drop_rate, DropPath(drop_path_rate)

    def forward(self, index: int, normed: Tensor, layout: Layout) -> Tensor:
        """Map (B, L, C) or (B, h, w, C) of block ``index`` to the same shape."""
        hidden = quick_gelu(self.down(normed.to(self.down.weight.dtype)))
        hidden = convolve_tokens(layout, index, hidden, self.conv.weight, self.conv.bias)
        hidden = F.dropout(quick_gelu(hidden), self.drop_rate, self.training)
        return self.drop_path(self.up(hidden))


def quick_gelu(x: Tensor) -> Tensor:
    """Compute ``x * sigmoid(1.702 x)``."""
    return x * torch.sigmoid(1.702 * x)


def drop_path_rate(trunk: Trunk, index: int) -> float:
    """Return at what rate a block drops its branches: none where it has no such layer."""
    return getattr(getattr(trunk.block(index), 'drop_path1', None), 'drop_prob', 0.0)
