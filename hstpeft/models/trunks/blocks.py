"""The block loop of plain vision transformers, and its parts.

timm's classes of blocks and attentions differ in names and in what they leave out; all of that is
told apart here, by what a block has.

Shapes: B batch, L tokens, C trunk width, K heads, D width of a head.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from timm.layers import Attention, AttentionRope
from timm.models.eva import EvaAttention, EvaBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.models.recompute import recomputed
from hstpeft.models.trunks.places import Places

AnyBlock = Block | EvaBlock
AnyAttention = Attention | EvaAttention | AttentionRope
Mixer = Callable[[AnyAttention, Tensor, Tensor, Tensor], Tensor]


def run_blocks(
    blocks: Sequence[AnyBlock],
    tokens: Tensor,
    places: Places,
    tap_indices: Collection[int],
    mixers: Mapping[int, Mixer] | None = None,
    pools: Mapping[int, Callable[[Tensor], Tensor]] | None = None,
    with_cp: bool = False,
) -> dict[int, Tensor]:
    """Run pre-norm blocks up to the last tap: the one loop of ViT, HVT and Eva.

    Args:
        blocks: timm's blocks.
        tokens: (B, L, C).
        places: Acts at the places of every block.
        tap_indices: Blocks whose output is wanted.
        mixers: By block, what takes the place of `mix` (windows, rotary positions).
        pools: By block, what shortens the sequence at its end (HVT).
        with_cp: Whether the backward pass runs each block again.

    Returns:
        Output of each tapped block.
    """
    taps = {}
    tokens = places.after_embedding(tokens)
    for index in range(max(tap_indices) + 1):
        mixer, pool = (mixers or {}).get(index, mix), (pools or {}).get(index)
        arguments = (blocks[index], index, tokens, places, mixer, pool)
        tokens = recomputed(run_vit_block, *arguments, when=with_cp)
        if index in tap_indices:
            taps[index] = tokens
    return taps


def run_vit_block(
    block: AnyBlock,
    index: int,
    tokens: Tensor,
    places: Places,
    mixer: Mixer,
    pool: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Run one block on tokens (B, L, C), a tuner acting at its places."""
    tokens = places.before_block(index, tokens)
    normed = places.before_attention(index, apply_norm(block.norm1, tokens))
    branch = attend(block.attn, *project_qkv(block.attn, normed), mixer)
    tokens = finish_block(block, index, tokens, normed, branch, places)
    return places.after_block(index, pool(tokens) if pool else tokens)


def finish_block(
    block: AnyBlock, index: int, tokens: Tensor, normed: Tensor, branch: Tensor, places: Places
) -> Tensor:
    """Do what follows the attention of a block.

    Args:
        block: timm's block.
        index: Number of the block.
        tokens: The residual stream (B, L, C) at the entry.
        normed: What the attention read (B, L, C).
        branch: What it gave (B, L, C).
        places: Acts between here and the end of the block.
    """
    branch = places.after_attention(index, scale_branch(block, 1, branch), normed)
    tokens = places.beside_attention(index, tokens) + branch
    tokens = places.before_mlp_norm(index, tokens)
    normed = places.before_mlp(index, apply_norm(block.norm2, tokens))
    branch = scale_branch(block, 2, block.mlp(normed))
    branch = places.after_mlp(index, branch, normed)
    return places.beside_mlp(index, tokens) + branch


def scale_branch(block: AnyBlock, number: int, branch: Tensor) -> Tensor:
    """Apply layer scale, if there is one, and drop path to a branch (B, L, C).

    Args:
        block: timm's block.
        number: 1 for the attention, 2 for the MLP.
        branch: What it gave.
    """
    if isinstance(block, EvaBlock):
        gamma = getattr(block, f'gamma_{number}')
        branch = branch if gamma is None else branch * gamma.to(branch.dtype)
    else:
        branch = getattr(block, f'ls{number}')(branch)
    return getattr(block, f'drop_path{number}')(branch)


def project_qkv(attn: AnyAttention, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project normalised tokens (B, L, C) to queries, keys and values (B, K, L, D) each.

    By one Linear or by three; keys and values that groups of queries share are repeated.
    """
    if attn.qkv is not None:
        qkv = attn.qkv(normed).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
    else:
        linears = (attn.q_proj, attn.k_proj, attn.v_proj)
        heads = (linear(normed).unflatten(-1, (-1, attn.head_dim)) for linear in linears)
        q, k, v = (x.transpose(1, 2) for x in heads)
    q, k = apply_norm(attn.q_norm, q), apply_norm(attn.k_norm, k)
    group = q.shape[1] // k.shape[1]
    if group > 1:
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    return q, k, v


def mix(attn: AnyAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Mix values (B, K, _, D) by scaled dot products; returns the queries' (B, K, _, D)."""
    drop_rate = attn.attn_drop.p if attn.training else 0.0
    return F.scaled_dot_product_attention(q, k, v, dropout_p=drop_rate, scale=attn.scale)


def attend(attn: AnyAttention, q: Tensor, k: Tensor, v: Tensor, mixer: Mixer = mix) -> Tensor:
    """Mix values (B, K, L, D) and project; returns (B, L, C)."""
    mixed = mixer(attn, q, k, v)
    mixed = apply_norm(attn.norm, mixed.transpose(1, 2).flatten(2))
    return attn.proj_drop(attn.proj(mixed))


def apply_norm(norm: nn.Module, tokens: Tensor) -> Tensor:
    """Apply a norm that may be float32 (trainable) to tokens that may be bfloat16 (frozen trunk)."""
    weight = getattr(norm, 'weight', None)
    if weight is None or weight.dtype == tokens.dtype:
        return norm(tokens)
    return norm(tokens.to(weight.dtype)).to(tokens.dtype)
