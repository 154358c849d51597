"""From the trunk's tokens to the side network's width and resolution.

Shapes: B batch, M meta tokens, P prefix tokens, N = h * w patches, C trunk width, D side width,
H W cells of the side map.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F


class Bridge(nn.Linear):
    """One Linear C -> D for the meta tokens and the resized patch map of all blocks of a stage.

    A Linear commutes with bilinear resizing, since the weights of an output cell sum to 1. So the
    projection runs on the smaller of the two grids, and autograd keeps the narrow map where the
    grid grows.
    """

    def forward(
        self,
        tap: Tensor,
        grid: tuple[int, int],
        size: tuple[int, int],
        num_meta: int,
        num_prefix: int,
    ) -> tuple[Tensor, Tensor]:
        """Bridge one tap.

        Args:
            tap: Output (B, M + P + N, C) of a trunk block.
            grid: (h, w) of the trunk.
            size: (H, W) of the stage.
            num_meta: M.
            num_prefix: P.

        Returns:
            Meta tokens (B, M, D) and patch tokens (B, H * W, D).
        """
        tap = tap.to(self.weight.dtype)
        first_patch = num_meta + num_prefix
        if math.prod(size) < math.prod(grid):
            patches = resize_tokens(tap[:, first_patch:], grid, size)
            return super().forward(tap[:, :num_meta]), super().forward(patches)
        # All tokens at once: slicing the narrow result is cheaper than copying the wide one.
        narrow = super().forward(tap)
        return narrow[:, :num_meta], resize_tokens(narrow[:, first_patch:], grid, size)


def resize_tokens(tokens: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Resize row-major tokens (B, h * w, D) bilinearly to (B, H * W, D)."""
    if grid == size:
        return tokens
    maps = tokens.transpose(1, 2).unflatten(2, grid)
    maps = F.interpolate(maps, size=size, mode='bilinear', align_corners=False)
    return maps.flatten(2).transpose(1, 2)
