"""The factors of FacT's updates, as a tensor train and in Tucker form.

Shapes: C trunk width, R rank, I and O pieces of width C that a layer reads and gives, N = max(I, O).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pieces = Sequence[Mapping[str, tuple[int, int]]]
"""For each block, by role, the pieces I and O of its layers, in the order in which they run."""


class Factors(nn.Module, ABC):
    """The outer factors, shared by all layers, and a core for each.

    Args:
        width: C.
        rank: R.
        drop_rate: Dropout between a core and V.
        pieces: Of what is updated.
    """

    def __init__(self, width: int, rank: int, drop_rate: float, pieces: Pieces) -> None:
        super().__init__()
        self.width, self.rank, self.drop_rate = width, rank, drop_rate
        self.pieces = tuple(pieces)
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width, bias=False)
        nn.init.zeros_(self.up.weight)

    @abstractmethod
    def core(self, index: int, name: str) -> Tensor:
        """Return the core of a layer (O R, I R)."""

    def forward(self, x: Tensor, index: int, name: str) -> Tensor:
        """Return the update of a layer's output (..., O C) for its input (..., I C)."""
        cut = x.to(self.down.weight.dtype).unflatten(-1, (-1, self.width))
        hidden = F.linear(self.down(cut).flatten(-2), self.core(index, name))
        hidden = F.dropout(hidden, self.drop_rate, self.training)
        return self.up(hidden.unflatten(-1, (-1, self.rank))).flatten(-2)

    def matrix(self, index: int, name: str) -> Tensor:
        """Return the update of a layer as a weight (O C, I C), in double precision."""
        into, out = self.pieces[index][name]
        factors = (self.down.weight, self.core(index, name), self.up.weight)
        down, core, up = (factor.detach().double() for factor in factors)
        core = core.view(out, self.rank, into, self.rank)
        return torch.einsum('cb,obia,ad->ocid', up, core, down).flatten(2).flatten(0, 1)


class TensorTrain(Factors):
    """A core of its own for each layer.

    Args:
        width: See `Factors`, and so the other arguments.
        rank: See `Factors`.
        drop_rate: See `Factors`.
        pieces: See `Factors`.
    """

    def __init__(self, width: int, rank: int, drop_rate: float, pieces: Pieces) -> None:
        super().__init__(width, rank, drop_rate, pieces)
        self.cores = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: nn.Linear(into * rank, out * rank, bias=False)
                    for name, (into, out) in layers.items()
                }
            )
            for layers in pieces
        )

    def core(self, index: int, name: str) -> Tensor:
        """Return a parameter."""
        return self.cores[index][name].weight


class Tucker(Factors):
    """A tensor whose slices are mixed to N cores (R, R) for each layer.

    The cores of ``fc1`` and ``fc2`` are interleaved, as officially: row N j + n of what makes N
    pieces is row j of core n.

    Args:
        width: See `Factors`, and so the other arguments.
        rank: See `Factors`.
        drop_rate: See `Factors`.
        pieces: See `Factors`.
    """

    def __init__(self, width: int, rank: int, drop_rate: float, pieces: Pieces) -> None:
        super().__init__(width, rank, drop_rate, pieces)
        self.columns: list[dict[str, slice]] = []
        end = 0
        for layers in pieces:
            self.columns.append({})
            for name, own in layers.items():
                start, end = end, end + max(own)
                self.columns[-1][name] = slice(start, end)
        self.slices = nn.Parameter(torch.empty(rank, rank, rank))
        self.mixing = nn.Parameter(torch.empty(rank, end))
        nn.init.xavier_uniform_(self.slices)
        nn.init.xavier_uniform_(self.mixing)

    def core(self, index: int, name: str) -> Tensor:
        """Mix the cores of a layer, and put them together as its place wants them."""
        # (input a, output b, N)
        cores = self.slices @ self.mixing[:, self.columns[index][name]]
        if name == 'qkv':
            return cores.permute(2, 1, 0).flatten(0, 1)
        wide = cores.flatten(1)
        return wide if name == 'fc2' else wide.t()
