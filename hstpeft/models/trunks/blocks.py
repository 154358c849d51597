"""The block loop of plain vision transformers, and its parts.

Shapes: B batch, L tokens, C trunk width, K heads, D width of a head.
"""

from collections.abc import Callable, Collection, Mapping

from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.models.trunks.base import BlockPlaces


def run_blocks(
    blocks: nn.Sequential,
    tokens: Tensor,
    places: BlockPlaces,
    tap_indices: Collection[int],
    pools: Mapping[int, Callable[[Tensor], Tensor]] | None = None,
) -> dict[int, Tensor]:
    """Run pre-norm blocks up to the last tap: the one loop of ViT and HVT.

    Args:
        blocks: timm's blocks.
        tokens: (B, L, C).
        places: Acts at the named places of every block.
        tap_indices: Blocks whose output is wanted.
        pools: By block, what shortens the sequence at its end (HVT).

    Returns:
        Output of each tapped block.
    """
    taps = {}
    for index in range(max(tap_indices) + 1):
        block: Block = blocks[index]
        tokens = places.before_block(index, tokens)
        normed = places.before_attention(index, apply_norm(block.norm1, tokens))
        branch = attend(block.attn, *project_qkv(block.attn, normed))
        tokens = finish_block(block, tokens, branch, index, places)
        if pools and index in pools:
            tokens = pools[index](tokens)
        tokens = places.after_block(index, tokens)
        if index in tap_indices:
            taps[index] = tokens
    return taps


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


def attend(attn: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Mix values by scaled dot products and project; returns (B, L, C)."""
    drop_rate = attn.attn_drop.p if attn.training else 0.0
    mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=drop_rate, scale=attn.scale)
    return attn.proj_drop(attn.proj(attn.norm(mixed.transpose(1, 2).flatten(2))))


def apply_norm(norm: nn.Module, tokens: Tensor) -> Tensor:
    """Apply a norm that may be float32 (trainable) to tokens that may be bfloat16 (frozen trunk)."""
    weight = getattr(norm, 'weight', None)
    if weight is None or weight.dtype == tokens.dtype:
        return norm(tokens)
    return norm(tokens.to(weight.dtype)).to(tokens.dtype)
