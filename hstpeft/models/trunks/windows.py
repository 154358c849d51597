"""Attention in windows, which keeps a plain ViT affordable on large images.

Shapes: B batch, K heads, D width of a head, h w grid, N = h * w patches, E tokens that are no
patches, L = N + E, n windows, S patches of a window.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hstpeft.errors import UserError
from hstpeft.models.trunks.blocks import AnyAttention, mix


def windowed_blocks(
    window_size: int, global_attn_indices: Sequence[int], depth: int
) -> tuple[int, ...]:
    """Return the blocks that have windows.

    Args:
        window_size: Patches a side; 0 = no windows.
        global_attn_indices: Blocks without.
        depth: Number of blocks.

    Raises:
        UserError: A value is out of range, or has no effect.
    """
    if window_size < 0:
        raise UserError(f'trunk.window_size {window_size} must be 0 (no windows) or more')
    given = tuple(global_attn_indices)
    if given and not window_size:
        raise UserError(
            f'trunk.global_attn_indices {given} have no effect: every block is global unless '
            'trunk.window_size (e.g. 14) is given'
        )
    if given and not 0 <= min(given) <= max(given) < depth:
        raise UserError(
            f'trunk.global_attn_indices {given} are out of range: the trunk has {depth} blocks, '
            f'0 to {depth - 1}'
        )
    return tuple(i for i in range(depth) if i not in given) if window_size else ()


def mix_in_windows(
    attn: AnyAttention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: tuple[int, int],
    first_patch: int,
    window_size: int,
) -> Tensor:
    """Mix values by scaled dot products, a patch reading its window and all that is no patch.

    Tokens that are no patches (class and register tokens, whatever a tuner put in front or
    behind) read everything. Windows start at the upper left corner; where they do not divide
    the grid, those at the lower and right edge are smaller. They form at most four regions of
    equal windows, so no mask and no padding is needed and the cost is linear in L.

    Args:
        attn: timm's attention.
        q: Queries (B, K, L, D).
        k: Keys (B, K, L, D).
        v: Values (B, K, L, D).
        grid: (h, w).
        first_patch: Place of the first patch among the L tokens.
        window_size: Patches a side of a window.

    Returns:
        (B, K, L, D).
    """
    num_patches = grid[0] * grid[1]
    sizes = [first_patch, num_patches, q.shape[2] - first_patch - num_patches]
    others, regions = [], []
    for x in (q, k, v):
        front, patches, behind = x.split(sizes, dim=2)
        others.append(torch.cat([front, behind], dim=2))
        regions.append(_cut(patches.unflatten(2, grid), window_size))
    # All that is no patch reads everything, in one product beside those of the regions.
    mixed_others = mix(attn, others[0], k, v)
    mixed_rows = [
        torch.cat(
            [
                _mix_region(attn, region, others[1:], window_size)
                for region in zip(*row, strict=True)
            ],
            dim=3,
        )
        for row in zip(*regions, strict=True)
    ]
    patches = torch.cat(mixed_rows, dim=2).flatten(2, 3)
    front, behind = mixed_others.split([sizes[0], sizes[2]], dim=2)
    return torch.cat([front, patches, behind], dim=2)


def _mix_region(
    attn: AnyAttention, region: tuple[Tensor, ...], others: list[Tensor], window_size: int
) -> Tensor:
    """Mix in a region of equal windows; ``region``: q, k, v (B, K, h, w, D) of its patches."""
    height, width = region[0].shape[2:4]
    window = (min(height, window_size), min(width, window_size))
    q, k, v = (_to_windows(x, window) for x in region)
    # Every window gets a copy of what is no patch in front of its own keys and values, so that one
    # softmax runs over both.
    k, v = (
        torch.cat([other.unsqueeze(1).expand(-1, x.shape[1], -1, -1, -1), x], dim=3).flatten(0, 1)
        for other, x in zip(others, (k, v), strict=True)
    )
    mixed = mix(attn, q.flatten(0, 1), k, v)
    columns = width // window[1]
    mixed = mixed.unflatten(0, (len(region[0]), -1, columns)).unflatten(4, window)
    return mixed.permute(0, 3, 1, 4, 2, 5, 6).flatten(4, 5).flatten(2, 3)


def _cut(maps: Tensor, window_size: int) -> list[tuple[Tensor, ...]]:
    """Cut maps (B, K, h, w, D) into rows of regions that equal windows tile."""
    height, width = (_whole_and_rest(side, window_size) for side in maps.shape[2:4])
    return [row.split(width, dim=3) for row in maps.split(height, dim=2)]


def _whole_and_rest(side: int, window_size: int) -> list[int]:
    """Split a side into what whole windows cover and the rest, leaving out what is empty."""
    rest = side % window_size
    return [length for length in (side - rest, rest) if length]


def _to_windows(region: Tensor, window: tuple[int, int]) -> Tensor:
    """Arrange a region (B, K, h, w, D) as windows (B, n, K, S, D), row by row."""
    tiles = region.unflatten(3, (-1, window[1])).unflatten(2, (-1, window[0]))
    return tiles.permute(0, 2, 4, 1, 3, 5, 6).flatten(4, 5).flatten(1, 2)
