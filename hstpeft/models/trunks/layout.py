"""Where the patches of an image stand among the tokens of a block.

Shapes: B batch, E tokens that are no patches, L tokens, C width, h w grid of a block. Tokens are
(B, L, C) in a trunk of one sequence and (B, h, w, C) in a trunk of stages, unless front tokens make
a sequence of them.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """The places of the patches inside the blocks, for images of one size.

    Attributes:
        grids: (h, w) of each block that runs.
        first_patch: Tokens in front of the patches, a tuner's and the trunk's prefix.
    """

    grids: tuple[tuple[int, int], ...]
    first_patch: int

    def split(self, index: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tell the patches of block ``index`` from the other tokens.

        Returns:
            The patches as a map (B, h, w, C), and all that is no patch (B, E, C), in order.
        """
        if tokens.dim() == 4:
            return tokens, tokens.new_empty(len(tokens), 0, tokens.shape[-1])
        grid = self.grids[index]
        end = self.first_patch + grid[0] * grid[1]
        others = torch.cat([tokens[:, : self.first_patch], tokens[:, end:]], dim=1)
        return tokens[:, self.first_patch : end].unflatten(1, grid), others

    def join(self, patches: Tensor, others: Tensor, is_map: bool) -> Tensor:
        """Undo `split`.

        Args:
            patches: (B, h, w, C).
            others: (B, E, C).
            is_map: Whether the tokens were a map, which has no other tokens.
        """
        if is_map:
            return patches
        front, behind = others[:, : self.first_patch], others[:, self.first_patch :]
        return torch.cat([front, patches.flatten(1, 2), behind], dim=1)
