"""Attention of a token to the 3 x 3 neighbourhood of its place in another sequence.

The neighbourhoods are a mask over all keys: two matrix products then do what a gather of nine
copies of keys and values would.

Shapes: B batch, K heads, D width of a head, P prefix tokens, L = P + h * w tokens, C = K * D.
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional as F


def neighbour_attention(
    q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], num_prefix_tokens: int, scale: float
) -> Tensor:
    """Attend to the neighbours that exist; prefix tokens attend to everything.

    Args:
        q: Queries (B, K, L, D).
        k: Keys (B, K, L, D) of the other sequence.
        v: Values (B, K, L, D) of the other sequence.
        grid: (h, w).
        num_prefix_tokens: P.
        scale: Factor of the scores.

    Returns:
        Mixed values (B, L, C).
    """
    mask, _ = neighbourhood(grid, num_prefix_tokens, q.device, q.dtype)
    mixed = F.scaled_dot_product_attention(q, k, v, mask, scale=scale)
    return mixed.transpose(1, 2).flatten(2)


def padded_neighbour_attention(
    q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], num_prefix_tokens: int
) -> Tensor:
    """Attend with one head over the full width; cells beyond the border take part as zero keys.

    Such a cell has score 0 and value 0, so all it does is to add 1 to the softmax's denominator:
    one column with the logarithm of their number stands for all of a query's.

    Args:
        q: Queries (B, K, L, D); the heads are laid side by side.
        k: Keys (B, K, L, D) of the other sequence.
        v: Values (B, K, L, D) of the other sequence.
        grid: (h, w).
        num_prefix_tokens: P.

    Returns:
        Mixed values (B, L, C).
    """
    q, k, v = (x.transpose(1, 2).flatten(2) for x in (q, k, v))
    mask, beyond = neighbourhood(grid, num_prefix_tokens, q.device, q.dtype)
    scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    scores = torch.cat([scores, beyond.expand(len(q), -1, -1)], dim=2)
    return scores.softmax(dim=2)[..., :-1] @ v


@functools.lru_cache(maxsize=4)
def neighbourhood(
    grid: tuple[int, int], num_prefix_tokens: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Lay out who sees whom; the last few layouts are kept.

    Args:
        grid: (h, w).
        num_prefix_tokens: P.
        device: Where the result shall be.
        dtype: Of the result.

    Returns:
        What is added to scores (L, L): 0 for a key that is seen, else -inf; and the logarithm
        of the number of each query's cells beyond the border (L, 1).
    """
    height, width = grid
    # A cached tensor that was made under inference mode could not serve a training step.
    with torch.inference_mode(False):
        rows = torch.arange(height).repeat_interleave(width)
        columns = torch.arange(width).repeat(height)
        near = (rows[:, None] - rows).abs().le(1) & (columns[:, None] - columns).abs().le(1)
        seen = torch.zeros(num_prefix_tokens + len(near), num_prefix_tokens + len(near))
        seen[num_prefix_tokens:, num_prefix_tokens:] = near
        beyond = torch.zeros(len(seen), 1, dtype=torch.float64)
        beyond[num_prefix_tokens:, 0] = 9 - near.sum(dim=1)
        seen[:num_prefix_tokens] = 1
        return seen.log().to(device, dtype), beyond.log().to(device, dtype)
