"""Rotary positions: queries and keys of the patches are turned by where they stand.

Shapes: B batch, K heads, L tokens, D width of a head, N = h * w patches.
"""

from typing import Any

import torch
from timm.layers.pos_embed_sincos import (
    RotaryEmbeddingCat,
    RotaryEmbeddingDinoV3,
    RotaryEmbeddingMixed,
    apply_rot_embed_cat,
)
from torch import Tensor, nn

from hstpeft.models.trunks.blocks import AnyAttention, Mixer

KNOWN = (RotaryEmbeddingCat, RotaryEmbeddingDinoV3, RotaryEmbeddingMixed)
"""Forms of timm's that are driven: sine and cosine by patch, or by block, head and patch."""
_FIELDS = (
    'temperature', 'rotate_half', 'grid_offset', 'grid_indexing', 'ref_feat_shape',
    'normalize_coords', 'min_period', 'max_period',
)  # fmt: skip


def mix_rotated(
    attn: AnyAttention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rope: Tensor,
    first_patch: int,
    mixer: Mixer,
) -> Tensor:
    """Turn queries and keys of the patches, and mix; all other tokens have no place.

    Args:
        attn: timm's attention.
        q: Queries (B, K, L, D).
        k: Keys (B, K, L, D).
        v: Values (B, K, L, D).
        rope: Sines and cosines side by side, (N, 2 D) or (K, N, 2 D).
        first_patch: Place of the first patch among the L tokens.
        mixer: What mixes then.

    Returns:
        (B, K, L, D).
    """
    q, k = (_rotate(x, rope, first_patch, attn.rotate_half).to(v.dtype) for x in (q, k))
    return mixer(attn, q, k, v)


def describe_rope(rope: nn.Module) -> dict[str, Any]:
    """Return what decides a rope beside its tensors; what acts in training alone stays out."""
    form = {name: getattr(rope, name, None) for name in _FIELDS}
    if isinstance(rope, RotaryEmbeddingMixed):
        del form['temperature']  # it only drew the frequencies
    return {'type': type(rope).__name__, **form}


def _rotate(x: Tensor, rope: Tensor, first_patch: int, rotate_half: bool) -> Tensor:
    num_patches = rope.shape[-2]
    sizes = [first_patch, num_patches, x.shape[2] - first_patch - num_patches]
    front, patches, behind = x.split(sizes, dim=2)
    patches = apply_rot_embed_cat(patches, rope, half=rotate_half)
    return torch.cat([front, patches, behind], dim=2)
