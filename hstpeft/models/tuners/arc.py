"""Adapter Re-Composing (https://arxiv.org/abs/2310.06234).

Shapes: C width of a stage, R adapter width. Tokens are (B, L, C) in a ViT and (B, h, w, C) in a
Swin.
"""

from collections.abc import Sequence

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
class ARCTuner(Tuner):
    """Linear bottleneck adapters whose projection is shared by the blocks of a stage.

    ``A(x) = x + dropout(x (D * s)) D^T + b``: the projection D (C, R) belongs to a stage (a ViT
    is one stage), its transpose is the up projection, and each block has its own rescaling s and
    bias b. In a ViT the adapters act on the normalised inputs of attention and MLP. In a Swin,
    as in the official code, the attention's does so too, but the MLP's acts on the residual
    stream before the norm.

    Trainable values: C R for each stage and position, and R + C for each block and position; 96,432
    for a ViT-B/16 with the default options.

    Args:
        positions: Where adapters are: ``attention``, ``mlp`` or both. Attention alone is
            the paper's ARC_att.
        adapter_dims: R.
        drop_rate: Dropout between the two projections (0.1 in the official ViT recipes, 0.5
            always in the official Swin).
    """

    def __init__(
        self,
        positions: Sequence[str] = BRANCHES,
        adapter_dims: int = 50,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.positions = check_names('tuner.positions', positions, BRANCHES)
        check_least('tuner.adapter_dims', adapter_dims, 1)
        check_rate('tuner.drop_rate', drop_rate)
        self.adapter_dims, self.drop_rate = adapter_dims, drop_rate

    def attach(self, trunk: Trunk) -> None:
        """Build a projection per stage and position, a rescaling and bias per block and position."""
        self.on_residual = 'stages' in trunk.capabilities
        for position in self.positions:
            adapters = SharedAdapters(
                trunk.stage_depths, trunk.stage_dims, self.adapter_dims, self.drop_rate
            )
            # The attention's adapters begin as the identity, the MLP's do not: as officially.
            for scale in adapters.scales:
                if position == 'attention':
                    nn.init.zeros_(scale)
                else:
                    nn.init.xavier_uniform_(scale)
            self.add_module(position, adapters)

    @property
    def acting_places(self) -> frozenset[str]:
        """The entries of the branches that have adapters."""
        mlp = 'before_mlp_norm' if self.on_residual else 'before_mlp'
        places = {'attention': 'before_attention', 'mlp': mlp}
        return frozenset(places[position] for position in self.positions)

    def before_attention(self, index: int, tokens: Tensor) -> Tensor:
        """Adapt the normalised input of the attention."""
        return self.attention(index, tokens) if 'attention' in self.positions else tokens

    def before_mlp_norm(self, index: int, tokens: Tensor) -> Tensor:
        """Adapt the residual stream of a Swin before the norm of the MLP."""
        return self.mlp(index, tokens) if 'mlp' in self.positions and self.on_residual else tokens

    def before_mlp(self, index: int, tokens: Tensor) -> Tensor:
        """Adapt the normalised input of the MLP of a ViT."""
        adapts = 'mlp' in self.positions and not self.on_residual
        return self.mlp(index, tokens) if adapts else tokens

    def merge(self, trunk: Trunk) -> Tuner:
        """Fold each adapter into the Linear that reads it.

        In a Swin, only the attention's adapters have such a Linear; the fold is exact where the
        windows divide the grid (a padded window would read zeros, which the fold shifts).

        Raises:
            UserError: The MLP's adapters of a Swin act on the residual stream, which no single
                Linear reads; or a Linear has no bias to take the adapter's.
        """
        if self.on_residual and 'mlp' in self.positions:
            raise UserError(
                'ARCTuner cannot be merged into a Swin: its MLP adapters act on the residual '
                "stream, which no single Linear reads; train with tuner.positions=['attention'] "
                'to merge, or deploy the delta beside the trunk (tools/delta.py export)'
            )
        for index in range(trunk.num_layers):
            for position in self.positions:
                fold_input(trunk, index, position, *self.get_submodule(position).matrix(index))
        return FrozenTuner()


class SharedAdapters(nn.Module):
    """The adapters of one position in all blocks."""

    def __init__(
        self,
        stage_depths: Sequence[int],
        stage_dims: Sequence[int],
        adapter_dims: int,
        drop_rate: float,
    ) -> None:
        super().__init__()
        stages = [stage for stage, depth in enumerate(stage_depths) for _ in range(depth)]
        self.stages, self.drop_rate = tuple(stages), drop_rate
        self.projections = nn.ParameterList(torch.empty(dim, adapter_dims) for dim in stage_dims)
        for projection in self.projections:
            nn.init.xavier_uniform_(projection)
        self.scales = nn.ParameterList(torch.empty(1, adapter_dims) for _ in stages)
        self.biases = nn.ParameterList(torch.zeros(stage_dims[stage]) for stage in stages)

    def forward(self, index: int, tokens: Tensor) -> Tensor:
        """Adapt tokens (..., C) of block ``index``."""
        projection = self.projections[self.stages[index]]
        wide = tokens.to(projection.dtype)
        hidden = F.dropout(wide @ (projection * self.scales[index]), self.drop_rate, self.training)
        return (
            wide
            + torch.addmm(self.biases[index], hidden.flatten(0, -2), projection.t()).view_as(wide)
        ).to(tokens.dtype)

    def matrix(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the adapter of block ``index`` as ``x M + b``: M (C, C) and b (C)."""
        projection = self.projections[self.stages[index]].detach().double()
        scaled = projection * self.scales[index].detach().double()
        identity = torch.eye(len(projection), dtype=torch.float64, device=projection.device)
        return identity + scaled @ projection.t(), self.biases[index].detach().double()
