"""The names of Meta's own DINOv3 checkpoints, translated to timm's."""

import re
from collections.abc import Mapping

from torch import Tensor

_BLOCK = re.compile(r'(blocks\.\d+\.)(.+)')
_PARTS = {
    'ls1.gamma': 'gamma_1',
    'ls2.gamma': 'gamma_2',
    **{f'mlp.w1.{leaf}': f'mlp.fc1_g.{leaf}' for leaf in ('weight', 'bias')},
    **{f'mlp.w2.{leaf}': f'mlp.fc1_x.{leaf}' for leaf in ('weight', 'bias')},
    **{f'mlp.w3.{leaf}': f'mlp.fc2.{leaf}' for leaf in ('weight', 'bias')},
}
_BIAS, _MASK = 'attn.qkv.bias', 'attn.qkv.bias_mask'
_LEFT_OUT = ('rope_embed', 'local_cls_norm')  # constants; the norm of the small crops of training


def from_official_dinov3(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate Meta's names to timm's.

    The bias of ``qkv`` has a masked key part, which is nothing. Where all of it is zero, as in the
    distilled ViT-B, L and H+, it is left out: timm has models without (``*_dinov3``) and with one
    (``*_dinov3_qkvb``).
    """
    has_bias = any(
        bool(part.any())
        for key, value in raw.items()
        if key.endswith(_BIAS)
        for part in value.chunk(3)[::2]
    )
    tensors = {}
    for key, value in raw.items():
        block = _BLOCK.fullmatch(key)
        if block is None:
            if key.partition('.')[0] not in _LEFT_OUT:
                tensors['reg_token' if key == 'storage_tokens' else key] = value
        elif block[2] == _BIAS:
            q, _, v = value.chunk(3)
            if has_bias:
                tensors |= {f'{block[1]}attn.q_bias': q, f'{block[1]}attn.v_bias': v}
        elif block[2] != _MASK:
            tensors[block[1] + _PARTS.get(block[2], block[2])] = value
    return tensors
