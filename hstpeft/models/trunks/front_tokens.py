"""Tokens in front of the patches of a Swin, which every window reads (https://arxiv.org/abs/2203.12119).

Shapes: B batch, T front tokens, h w grid of a stage, C its width, K heads, D width of a head,
n windows, S patches of a window. Tokens are one sequence (B, T + h * w, C).
"""

import torch
from timm.models.swin_transformer import (
    SwinTransformerBlock,
    WindowAttention,
    window_partition,
    window_reverse,
)
from torch import Tensor, nn
from torch.nn import functional as F


def attend_with_front(
    block: SwinTransformerBlock,
    normed: Tensor,
    grid: tuple[int, int],
    num_front_tokens: int,
    pad_first: bool = False,
) -> Tensor:
    """Attend in windows, each of which reads and updates a copy of the front tokens.

    A front token has no place: neither the bias of relative positions nor the mask of shifted
    windows applies to it. What becomes of it is the mean over the windows of an image.

    Args:
        block: timm's block.
        normed: Its normalised input (B, T + h * w, C).
        grid: (h, w).
        num_front_tokens: T.
        pad_first: Whether the map is padded before it is shifted, as in detectors, not behind.

    Returns:
        (B, T + h * w, C).
    """
    batch, (height, width), window = len(normed), grid, block.window_size
    front, patches = normed[:, :num_front_tokens], normed[:, num_front_tokens:]
    maps, back = patches.unflatten(1, grid), [-s for s in block.shift_size]
    padding = (0, 0, 0, -width % window[1], 0, -height % window[0])
    if pad_first:
        maps = F.pad(maps, padding).roll(back, dims=(1, 2))
    else:
        maps = F.pad(maps.roll(back, dims=(1, 2)), padding)
    windows = window_partition(maps, window).flatten(1, 2)
    count = len(windows) // batch
    tokens = torch.cat([front.repeat_interleave(count, dim=0), windows], dim=1)
    scores = _offsets(block, maps, num_front_tokens).repeat(batch, 1, 1, 1)
    mixed = _mix(block.attn, tokens, scores)
    front = mixed[:, :num_front_tokens].unflatten(0, (batch, count)).mean(dim=1)
    windows = mixed[:, num_front_tokens:].unflatten(1, window)
    maps = window_reverse(windows, window, *maps.shape[1:3])
    if not pad_first:
        maps = maps[:, :height, :width]
    maps = maps.roll(block.shift_size, dims=(1, 2))[:, :height, :width]
    return torch.cat([front, maps.flatten(1, 2)], dim=1)


def merge_with_front(
    downsample: nn.Module, tokens: Tensor, grid: tuple[int, int], num_front_tokens: int
) -> Tensor:
    """Merge patches 2 x 2; a front token stands in for all four of its patches.

    Args:
        downsample: timm's patch merging; an Identity before the first stage.
        tokens: (B, T + h * w, C).
        grid: (h, w) before.
        num_front_tokens: T.

    Returns:
        (B, T + ceil(h / 2) * ceil(w / 2), 2 C).
    """
    if isinstance(downsample, nn.Identity):
        return tokens
    front = tokens[:, :num_front_tokens].repeat(1, 1, 4)
    patches = downsample(tokens[:, num_front_tokens:].unflatten(1, grid))
    front = downsample.reduction(downsample.norm(front))
    return torch.cat([front, patches.flatten(1, 2)], dim=1)


def _offsets(block: SwinTransformerBlock, maps: Tensor, num_front_tokens: int) -> Tensor:
    """Return what is added to the scores of each window of an image (n, K, T + S, T + S)."""
    attn, pad = block.attn, (num_front_tokens, 0, num_front_tokens, 0)
    size = attn.relative_position_index.shape
    bias = attn.relative_position_bias_table[attn.relative_position_index.flatten()]
    bias = F.pad(bias.unflatten(0, size).permute(2, 0, 1), pad).to(maps.dtype)
    mask = block.get_attn_mask(maps)
    if mask is None:
        count = maps.shape[1] * maps.shape[2] // block.window_area
        return bias.expand(count, -1, -1, -1)
    return bias + F.pad(mask, pad).unsqueeze(1)


def _mix(attn: WindowAttention, tokens: Tensor, scores: Tensor) -> Tensor:
    """Attend among the tokens (B n, T + S, C) of each window."""
    qkv = attn.qkv(tokens).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    drop_rate = attn.attn_drop.p if attn.training else 0.0
    mixed = F.scaled_dot_product_attention(q, k, v, scores, drop_rate, scale=attn.scale)
    return attn.proj_drop(attn.proj(mixed.transpose(1, 2).flatten(2)))
