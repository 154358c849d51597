"""RepAdapter (https://arxiv.org/abs/2302.08106).

Shapes: C width of a block, R adapter width, G groups. Tokens are (B, L, C) in a ViT and
(B, h, w, C) in a Swin.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.errors import UserError, check_least, check_names, check_rate
from hstpeft.models.trunks import Trunk
from hstpeft.models.trunks.layers import BRANCHES
from hstpeft.models.tuners.base import Tuner
from hstpeft.models.tuners.folding import fold_input
from hstpeft.models.tuners.frozen import FrozenTuner
from hstpeft.registry import MODELS


@MODELS.register_module()
class RepAdapterTuner(Tuner):
    """Linear bottlenecks on what attention and MLP read, which merge into their Linears.

    ``R(x) = x + scale * up(dropout(down(x)))`` on the normalised input, without activation. ``up``
    has groups: each reads its share of the R hidden values and makes its share of the C outputs.
    ``down`` is Xavier uniform at first, ``up`` and the biases are zero, so that training starts
    from the pre-trained function. In a Swin the attention's adapter acts before the windows are
    shifted and cut.

    Trainable values: ``R C + R + C R / G + C`` for each block and position; 239,808 for a ViT-B/16
    with the default options (attention alone 119,904), 313,216 for a Swin-B.

    Args:
        positions: Where adapters are: ``attention``, ``mlp`` or both.
        adapter_dims: R.
        num_groups: G, which divides R and the width of every block.
        scale: Factor of the adapter's output, biases included.
        drop_rate: Dropout between the two projections.

    Raises:
        UserError: A wrong option; groups that do not divide R or, in `attach`, a width.
    """

    def __init__(
        self,
        positions: Sequence[str] = BRANCHES,
        adapter_dims: int = 8,
        num_groups: int = 2,
        scale: float = 1.0,
        drop_rate: float = 0.1,
    ) -> None:
        super().__init__()
        self.positions = check_names('tuner.positions', positions, BRANCHES)
        check_least('tuner.adapter_dims', adapter_dims, 1)
        check_least('tuner.num_groups', num_groups, 1)
        check_rate('tuner.drop_rate', drop_rate)
        self.adapter_dims, self.num_groups = adapter_dims, num_groups
        self.scale, self.drop_rate = scale, drop_rate
        self._check_groups('tuner.adapter_dims', adapter_dims)

    def attach(self, trunk: Trunk) -> None:
        """Build an adapter for every block and position."""
        for dims in trunk.stage_dims:
            self._check_groups("the trunk's width", dims)
        options = (self.adapter_dims, self.num_groups, self.scale, self.drop_rate)
        for position in self.positions:
            adapters = nn.ModuleList(RepAdapter(dims, *options) for dims in trunk.block_dims)
            self.add_module(position, adapters)

    def description(self) -> dict[str, Any]:
        """Return groups and scale."""
        return {'num_groups': self.num_groups, 'scale': self.scale}

    @property
    def acting_places(self) -> frozenset[str]:
        """Those before the branches that have adapters."""
        return frozenset(f'before_{position}' for position in self.positions)

    def before_attention(self, index: int, tokens: Tensor) -> Tensor:
        """Adapt the normalised input of the attention."""
        return self.attention[index](tokens) if 'attention' in self.positions else tokens

    def before_mlp(self, index: int, tokens: Tensor) -> Tensor:
        """Adapt the normalised input of the MLP."""
        return self.mlp[index](tokens) if 'mlp' in self.positions else tokens

    def merge(self, trunk: Trunk) -> Tuner:
        """Fold each adapter into the Linears that read it.

        In a Swin the fold of the attention's is exact where the windows divide the grid: a padded
        window would read zeros, which the fold shifts.

        Raises:
            UserError: A Linear has no bias to take the adapter's.
        """
        for position in self.positions:
            for index, adapter in enumerate(self.get_submodule(position)):
                fold_input(trunk, index, position, *adapter.matrix())
        return FrozenTuner()

    def _check_groups(self, what: str, dims: int) -> None:
        if dims % self.num_groups:
            raise UserError(
                f'tuner.num_groups {self.num_groups} must divide {what} {dims}: use 1, or another '
                'divisor'
            )


class RepAdapter(nn.Module):
    """The adapter of one block at one position, residual included."""

    def __init__(self, dims: int, inner: int, groups: int, scale: float, rate: float) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(dims, inner), GroupedLinear(inner, dims, groups)
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.zeros_(self.down.bias)
        self.scale, self.drop_rate = scale, rate

    def forward(self, tokens: Tensor) -> Tensor:
        """Adapt tokens (..., C)."""
        wide = tokens.to(self.down.weight.dtype)
        hidden = F.dropout(self.down(wide), self.drop_rate, self.training)
        return (wide + self.scale * self.up(hidden)).to(tokens.dtype)

    def matrix(self) -> tuple[Tensor, Tensor]:
        """Return the adapter as ``x M + b``: M (C, C) and b (C)."""
        parts = (self.down.weight, self.down.bias, self.up.dense(), self.up.bias)
        down, down_bias, up, up_bias = (part.detach().double() for part in parts)
        identity = torch.eye(len(up), dtype=torch.float64, device=up.device)
        matrix = identity + self.scale * (up @ down).t()
        return matrix, self.scale * (up @ down_bias + up_bias)


class GroupedLinear(nn.Module):
    """A Linear in groups, zero at first: each maps its share of the input to its share of the output."""

    def __init__(self, in_features: int, out_features: int, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_features, in_features // groups))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.groups = groups

    def dense(self) -> Tensor:
        """Return the weight of the same Linear without groups: block-diagonal."""
        return torch.block_diag(*self.weight.chunk(self.groups))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        # One product: the zeros of a thin matrix cost less than a product for each group.
        return F.linear(x, self.dense(), self.bias)
