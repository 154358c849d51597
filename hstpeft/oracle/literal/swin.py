"""What literal forms on a Swin share: sizes of windows, and attention in them, beside front tokens.

Shapes: B batch, T front tokens, h w grid of a stage, L = T + h * w tokens, C its width, K heads,
n windows, S cells of a window.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from hstpeft.oracle.literal.arc_shapes import arc_swin_shapes

MASKED = -100.0


def swin_shapes(width, depths, num_heads, grid, patch, window, num_classes, mlp_ratio, qkv_bias):
    """Name -> shape of an official Swin and its head."""
    shapes = arc_swin_shapes(
        width, depths, num_heads, grid, patch, window, num_classes, 1, mlp_ratio, positions=()
    )
    return {k: v for k, v in shapes.items() if qkv_bias or not k.endswith('.attn.qkv.bias')}


def count_blocks(w, prefix: str = '') -> list[int]:
    """Count the blocks of each stage."""
    names = {key.removesuffix('.norm1.weight') for key in w if key.endswith('.norm1.weight')}
    stages = [int(name.removeprefix(f'{prefix}layers.').split('.')[0]) for name in names]
    return [stages.count(stage) for stage in range(max(stages) + 1)]


def window_and_shift(grid: tuple[int, int], window: int, number: int) -> tuple[int, int]:
    """Return window and shift of a block by its number in the stage.

    A window that covers the grid becomes the grid, and nothing is shifted.
    """
    if min(grid) <= window:
        return min(grid), 0
    return window, window // 2 if number % 2 else 0


def mix_in_windows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    grid: tuple[int, int],
    window: int,
    shift: int,
    num_front_tokens: int = 0,
) -> Tensor:
    """Let the cells of each window, and a copy of the front tokens, attend to each other.

    Neither bias nor mask applies to a front token; what becomes of it is the mean over the windows.

    Args:
        q: (B, L, C), the front tokens first; k and v alike.
        k: See ``q``.
        v: See ``q``.
        table: Bias of relative positions ((2 window - 1)^2, K).
        grid: (h, w).
        window: Side of a window.
        shift: Cells by which the grid is rolled up and left before it is cut.
        num_front_tokens: T.
    """
    heads, front = table.shape[-1], torch.arange(num_front_tokens)
    fronts, mixed = [], torch.zeros_like(v)
    for cells, bias in _windows(table, grid, window, shift):
        rows = torch.cat([front, num_front_tokens + cells])
        q_, k_, v_ = (t[:, rows].unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        scores = (q_ @ k_.transpose(-2, -1)) * q_.shape[-1] ** -0.5
        scores = scores + F.pad(bias, (num_front_tokens, 0, num_front_tokens, 0))
        out = (scores.softmax(dim=-1) @ v_).transpose(1, 2).flatten(2)
        fronts.append(out[:, :num_front_tokens])
        mixed = mixed.index_copy(1, num_front_tokens + cells, out[:, num_front_tokens:])
    return mixed.index_copy(1, front, torch.stack(fronts).mean(dim=0))


def _windows(table, grid, window, shift):
    """Yield the numbers of the cells (S,) of each window, and their bias and mask (K, S, S)."""
    rows, columns = (torch.arange(side).roll(-shift) for side in grid)
    a, b = (t.flatten() for t in torch.meshgrid(*[torch.arange(window)] * 2, indexing='ij'))
    da, db = (t[:, None] - t[None, :] + window - 1 for t in (a, b))
    bias = table[da * (2 * window - 1) + db].permute(2, 0, 1)
    for top in range(0, grid[0], window):
        for left in range(0, grid[1], window):
            y, x = rows[top + a], columns[left + b]
            # Cells that the roll has brought together from both ends of the grid do not meet.
            ends = 2 * (y < shift) + (x < shift)
            mask = torch.where(ends[:, None] == ends[None, :], 0.0, MASKED)
            yield y * grid[1] + x, bias + mask.to(bias.dtype)
