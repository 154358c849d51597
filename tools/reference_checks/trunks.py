"""Trunks of reference cases, as configs name them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tools.reference_checks.classifier import mlp_ratio

SWIN_ARGUMENTS = frozenset(
    {
        'embed width', 'depths', 'heads', 'window', 'image size', 'patch size', 'mlp ratio',
        'qkv bias', 'drop path',
    }
)  # fmt: skip
"""Words of the cases for a Swin."""
VIT_ARGUMENTS = frozenset(
    {
        'hidden size', 'layers', 'heads', 'mlp ratio', 'image size', 'patch size', 'qkv bias',
        'all dropout',
    }
)  # fmt: skip
"""Words of the cases for a ViT."""


def vit_trunk(
    weights: Mapping[str, Tensor], arguments: Mapping[str, Any], **options: Any
) -> dict[str, Any]:
    """Make the config of a ViT of the size that weights and arguments have.

    Args:
        weights: By timm's names.
        arguments: Of the case: sizes of image and patch, and heads.
        options: Further ``arch_options``.
    """
    hidden, width = weights['blocks.0.mlp.fc1.weight'].shape
    own = dict(
        img_size=arguments['image size'],
        patch_size=arguments['patch size'],
        embed_dim=width,
        depth=len({key.split('.')[1] for key in weights if key.startswith('blocks.')}),
        num_heads=arguments['heads'],
        mlp_ratio=mlp_ratio(hidden, width),
        qkv_bias='blocks.0.attn.qkv.bias' in weights,
        **options,
    )
    arch = 'vit_base_patch16_224'
    return dict(type='hstpeft.ViTTrunk', arch=arch, arch_options=own, weights=weights)


def swin_trunk(weights: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Make the config of a Swin of the size that weights and arguments have."""
    a = arguments
    # The widest stage: the rounding of a ratio grows with the width.
    hidden, width = weights[f'layers.{len(a["depths"]) - 1}.blocks.0.mlp.fc1.weight'].shape
    own = dict(
        img_size=a['image size'],
        patch_size=a['patch size'],
        embed_dim=a['embed width'],
        depths=tuple(a['depths']),
        num_heads=tuple(a['heads']),
        window_size=a['window'],
        mlp_ratio=mlp_ratio(hidden, width),
        qkv_bias='layers.0.blocks.0.attn.qkv.bias' in weights,
    )
    arch = 'swin_base_patch4_window7_224'
    return dict(type='hstpeft.SwinTrunk', arch=arch, arch_options=own, weights=weights)
