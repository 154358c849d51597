"""Biases of queries, keys and values: timm's files have two of them, a block here has one.

timm's `EvaAttention` keeps ``q_bias`` and ``v_bias`` beside a Linear ``qkv`` without bias, and adds
them outside of it: a key has none. So whatever stands on ``qkv`` (peft, an adapter) would be passed
by. Here it is one Linear with one bias, whose key part is zero, as the files say.

Shapes: A width of all heads.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models.eva import EvaAttention
from torch import Tensor, nn

ROLES = ('qkv', 'q', 'k', 'v')
"""Roles of the Linears that this is about."""


def join_biases(blocks: Sequence[nn.Module]) -> None:
    """Give each ``qkv`` that has its biases beside it a bias of its own, in place."""
    for attn in (block.attn for block in blocks):
        if getattr(attn, 'q_bias', None) is not None:
            bias = torch.cat([attn.q_bias.detach(), attn.k_bias, attn.v_bias.detach()])
            attn.qkv.bias = nn.Parameter(bias)
            # timm's own forward reads None as: the Linear does it all.
            attn.q_bias = attn.k_bias = attn.v_bias = None


def join_pairs(blocks: Sequence[nn.Module], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn tensors by the names of timm's files into those by our names: a pair becomes a bias."""
    joined = dict(tensors)
    for index in range(len(blocks)):
        place = f'blocks.{index}.attn.'
        if f'{place}q_bias' in joined:
            q, v = joined.pop(f'{place}q_bias'), joined.pop(f'{place}v_bias')
            joined[f'{place}qkv.bias'] = torch.cat([q, torch.zeros_like(q), v])
    return joined


def split_biases(blocks: Sequence[nn.Module], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `join_pairs`, and complete what a merge has given to some Linears alone.

    timm's option of a bias holds for every block, so one without gets zeros; a key has one where
    timm's class has one, or where it is not zero.

    Args:
        blocks: timm's, their biases joined.
        tensors: By our names.
    """
    if not has_bias(blocks):
        return dict(tensors)
    split, with_k = dict(tensors), _is_rope_class(blocks) or _has_key_bias(blocks)
    for index, block in enumerate(blocks):
        place, attn = f'blocks.{index}.attn.', block.attn
        for name in ('qkv', 'q_proj', 'k_proj', 'v_proj'):
            split.pop(f'{place}{name}.bias', None)
        q, k, v = _read_biases(attn)
        if attn.qkv is None:
            split |= {f'{place}q_proj.bias': q, f'{place}v_proj.bias': v}
            split |= {f'{place}k_proj.bias': k} if with_k else {}
        elif with_k:
            split[f'{place}qkv.bias'] = torch.cat([q, k, v])
        else:
            split |= {f'{place}q_bias': q, f'{place}v_bias': v}
    return split


def bias_options(blocks: Sequence[nn.Module], had_bias: bool) -> dict[str, Any]:
    """Return the options of timm's that a model needs to hold what `split_biases` gives.

    Args:
        blocks: timm's, their biases joined.
        had_bias: Whether they had biases as timm built them.
    """
    if not _is_rope_class(blocks) and _has_key_bias(blocks):
        return {'attn_type': 'rope', 'qkv_bias': True}
    return {'qkv_bias': True} if has_bias(blocks) and not had_bias else {}


def has_bias(blocks: Sequence[nn.Module]) -> bool:
    """Whether a query, key or value of any block has a bias."""
    linears = [linear for block in blocks for linear in _linears(block.attn)]
    return any(linear.bias is not None for linear in linears)


def _is_rope_class(blocks: Sequence[nn.Module]) -> bool:
    """Whether a key's bias is an ordinary one in timm's class."""
    return not isinstance(blocks[0].attn, EvaAttention)


def _has_key_bias(blocks: Sequence[nn.Module]) -> bool:
    return any(bool(_read_biases(block.attn)[1].any()) for block in blocks)


def _linears(attn: nn.Module) -> list[nn.Linear]:
    return [attn.q_proj, attn.k_proj, attn.v_proj] if attn.qkv is None else [attn.qkv]


def _read_biases(attn: nn.Module) -> list[Tensor]:
    """Return the biases (A) of queries, keys and values; zeros where there is none."""
    biases = [
        linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
        for linear in _linears(attn)
    ]
    return [bias.detach() for bias in (biases if attn.qkv is None else biases[0].chunk(3))]
