"""The block loop of plain vision transformers, and its parts.

Shapes: B batch, L tokens, C trunk width, K heads, D width of a head.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hstpeft.models.trunks.base import BlockPlaces

Mixer = Callable[[Attention, Tensor, Tensor, Tensor], Tensor]


def run_blocks(
    blocks: nn.Sequential,
    tokens: Tensor,
    places: BlockPlaces,
    tap_indices: Collection[int],
    mixers: Mapping[int, Mixer] | None = None,
    pools: Mapping[int, Callable[[Tensor], Tensor]] | None = None,
    with_cp: bool = False,
) -> dict[int, Tensor]:
    """Run pre-norm blocks up to the last tap: the one loop of ViT and HVT.

    Args:
        blocks: timm's blocks.
        tokens: (B, L, C).
        places: Acts at the named places of every block.
        tap_indices: Blocks whose output is wanted.
        mixers: By block, what takes the place of `mix` (windows).
        pools: By block, what shortens the sequence at its end (HVT).
        with_cp: Whether the backward pass runs each block again, see `run_maybe_twice`.

    Returns:
        Output of each tapped block.
    """
    taps = {}
    for index in range(max(tap_indices) + 1):
        mixer, pool = (mixers or {}).get(index, mix), (pools or {}).get(index)
        arguments = (blocks[index], index, tokens, places, mixer, pool)
        tokens = run_maybe_twice(run_block, *arguments, with_cp=with_cp)
        if index in tap_indices:
            taps[index] = tokens
    return taps


def run_block(
    block: Block,
    index: int,
    tokens: Tensor,
    places: BlockPlaces,
    mixer: Mixer,
    pool: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Run one block on tokens (B, L, C), a tuner acting at its places."""
    tokens = places.before_block(index, tokens)
    normed = places.before_attention(index, apply_norm(block.norm1, tokens))
    branch = attend(block.attn, *project_qkv(block.attn, normed), mixer)
    tokens = finish_block(block, tokens, branch, index, places)
    return places.after_block(index, pool(tokens) if pool else tokens)


def run_maybe_twice(function: Callable[..., Any], *arguments: Any, with_cp: bool) -> Any:
    """Call; ``with_cp``, keep only the arguments and call again in the backward pass.

    Activation checkpointing: the same outputs and gradients (random numbers are drawn alike),
    about a third more time, and of all that happens inside nothing is kept. torch's reentrant
    form, which mmengine has, would give what is trained behind frozen inputs no gradient.
    """
    if with_cp and torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False)
    return function(*arguments)


def finish_block(
    block: Block,
    tokens: Tensor,
    branch: Tensor,
    index: int = 0,
    places: BlockPlaces | None = None,
) -> Tensor:
    """Do what follows the attention of a block.

    Args:
        block: timm's block.
        tokens: The residual stream (B, L, C) at the entry.
        branch: What the attention gave (B, L, C).
        index: Number of the block.
        places: Acts before the MLP and its norm.
    """
    tokens = tokens + block.drop_path1(block.ls1(branch))
    if places is not None:
        tokens = places.before_mlp_norm(index, tokens)
    normed = apply_norm(block.norm2, tokens)
    if places is not None:
        normed = places.before_mlp(index, normed)
    return tokens + block.drop_path2(block.ls2(block.mlp(normed)))


def project_qkv(attn: Attention, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project normalised tokens (B, L, C) to queries, keys and values (B, K, L, D) each."""
    qkv = attn.qkv(normed).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    return attn.q_norm(q), attn.k_norm(k), v


def mix(attn: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Mix values (B, K, _, D) by scaled dot products; returns the queries' (B, K, _, D)."""
    drop_rate = attn.attn_drop.p if attn.training else 0.0
    return F.scaled_dot_product_attention(q, k, v, dropout_p=drop_rate, scale=attn.scale)


def attend(attn: Attention, q: Tensor, k: Tensor, v: Tensor, mixer: Mixer = mix) -> Tensor:
    """Mix values (B, K, L, D) and project; returns (B, L, C)."""
    mixed = mixer(attn, q, k, v)
    return attn.proj_drop(attn.proj(attn.norm(mixed.transpose(1, 2).flatten(2))))


def apply_norm(norm: nn.Module, tokens: Tensor) -> Tensor:
    """Apply a norm that may be float32 (trainable) to tokens that may be bfloat16 (frozen trunk)."""
    weight = getattr(norm, 'weight', None)
    if weight is None or weight.dtype == tokens.dtype:
        return norm(tokens)
    return norm(tokens.to(weight.dtype)).to(tokens.dtype)
