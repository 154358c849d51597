"""Building timm's plain vision transformers, or saying which trunk or arch to take instead."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.layers import Attention, AttentionRope, PatchEmbed
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from hstpeft.errors import UserError
from hstpeft.models.trunks.rope import KNOWN
from hstpeft.models.trunks.timm_models import check_arch, check_img_size, create_model

_TRUNKS = {
    'vision_transformer': ('ViTTrunk', VisionTransformer),
    'deit': ('ViTTrunk', VisionTransformer),
    'eva': ('EvaTrunk', Eva),
    'swin_transformer': ('SwinTrunk', SwinTransformer),
}
"""By the file of timm that builds an arch, the trunk that drives it, and timm's class."""
_INSTEAD = {
    'beit': 'an EvaTrunk such as eva02_base_patch14_224, or a ViTTrunk such as beit3_base_patch16_224',
    'vision_transformer_sam': 'a ViTTrunk such as vit_base_patch16_224 with window_size=14',
    'hiera': 'a SwinTrunk such as swin_base_patch4_window7_224',
    'hieradet_sam2': 'a SwinTrunk such as swin_base_patch4_window7_224',
    'naflexvit': 'a ViTTrunk such as vit_base_patch16_siglip_256, which takes images of any size',
}
"""By the file of timm that builds an arch which no trunk drives, what is nearest to it."""
_PLAIN = {
    'ViTTrunk': 'a plain ViT of timm such as vit_base_patch16_224, deit_small_patch16_224 or '
    'vit_base_patch14_dinov2',
    'EvaTrunk': 'an arch such as vit_base_patch16_dinov3, eva02_base_patch14_224 or '
    'vit_pe_core_base_patch16_224',
}


def create_vit(arch: str, options: dict[str, Any], attn_pool: bool) -> VisionTransformer:
    """Build a timm ViT without weights and refuse by name what the block loop cannot drive.

    Args:
        arch: timm model.
        options: Passed to timm.
        attn_pool: Whether its attention pooling is kept.

    Raises:
        UserError: ``arch`` is unknown or of another family, or an option is not one of its.
    """
    _check_family(arch, 'ViTTrunk')
    check_arch(arch, options, _family('ViTTrunk'), VisionTransformer)
    vit = create_model(arch, options)
    _check_driven(arch, vit, _unknown_to_vit(vit), 'ViTTrunk')
    _check_options(vit, arch, options, attn_pool)
    return _without_pooling(vit, attn_pool)


def create_eva(arch: str, options: dict[str, Any], attn_pool: bool) -> Eva:
    """Build a model of timm's class Eva without weights; see `create_vit`."""
    _check_family(arch, 'EvaTrunk')
    check_arch(arch, options, _family('EvaTrunk'), Eva)
    with torch.device('meta'):  # some take minutes to draw
        sketch = create_model(arch, options)
    _check_driven(arch, sketch, _unknown_to_eva(sketch), 'EvaTrunk')
    _check_heads(sketch, arch)
    _check_options(sketch, arch, options, attn_pool)
    return _without_pooling(create_model(arch, options), attn_pool)


def _family(trunk: str) -> list[str]:
    """Names of timm's models that a trunk is for."""
    files = [file for file, (driver, _) in _TRUNKS.items() if driver == trunk]
    return [arch for file in files for arch in timm.list_models(module=file)]


def _check_family(arch: str, trunk: str) -> None:
    """Refuse an arch of another trunk or of none, by naming what to take."""
    if not timm.is_model(arch) or arch in _family(trunk):
        return
    name, _, tag = arch.partition('.')
    if tag:
        raise UserError(f'trunk.arch {arch!r} has a tag: set arch={name!r} and weights={tag!r}')
    file = timm.models.model_entrypoint(arch).__module__.rpartition('.')[2]
    if file in _TRUNKS:
        driver, kind = _TRUNKS[file]
        raise UserError(
            f'trunk.arch {arch!r} is not supported by {trunk} (whatever its name, its class in timm '
            f"is {kind.__name__}): set trunk.type='hstpeft.{driver}'"
        )
    instead = _INSTEAD.get(file, _PLAIN[trunk])
    raise UserError(
        f'trunk.arch {arch!r} is not supported (no trunk drives what timm builds in {file}.py): '
        f'use {instead}'
    )


def _check_driven(arch: str, vit: nn.Module, reason: str, trunk: str) -> None:
    if reason:
        raise UserError(f'trunk.arch {arch!r} is not supported ({reason}): use {_PLAIN[trunk]}')


def _check_options(vit: nn.Module, arch: str, options: Mapping[str, Any], attn_pool: bool) -> None:
    if options.get('patch_drop_rate'):
        raise UserError(
            f'trunk.arch_options patch_drop_rate {options["patch_drop_rate"]} is not supported for '
            f'{arch} (patch dropout: maps need every patch): leave it out'
        )
    if 'img_size' in options:
        check_img_size(options['img_size'], vit)
    if attn_pool and vit.attn_pool is None:
        raise UserError(
            f'trunk.attn_pool True does not apply: {arch} has no attention pooling with these '
            'arch_options; leave it out'
        )


def _check_heads(eva: Eva, arch: str) -> None:
    """Refuse heads that timm builds without a word and cannot run."""
    multiple = eva.blocks[0].attn.num_heads * (1 if eva.rope is None else 4)
    if eva.embed_dim % multiple:
        rotary = '' if eva.rope is None else ', whose rotary embedding turns fours of a head'
        raise UserError(
            f'trunk.arch_options embed_dim {eva.embed_dim} is not divided among the '
            f'{eva.blocks[0].attn.num_heads} heads of {arch}{rotary}: set embed_dim to a multiple '
            f'of {multiple}, or another num_heads'
        )


def _without_pooling(vit: nn.Module, attn_pool: bool) -> nn.Module:
    """Take the attention pooling out unless it is wanted."""
    if not attn_pool:
        vit.attn_pool = None
    return vit


def _unknown_to_vit(vit: nn.Module) -> str:
    """Say what the block loop does not know about a ViT; empty if it knows all."""
    if type(vit) is not VisionTransformer:
        return f'it is a {type(vit).__name__}'
    return _unknown_parts(vit, Block, (Attention,))


def _unknown_to_eva(vit: nn.Module) -> str:
    """Say what the block loop does not know about a model of class Eva."""
    if type(vit) is not Eva:
        return f'it is a {type(vit).__name__}'
    if vit.rope is not None and type(vit.rope) not in KNOWN:
        return f'its rotary positions are {type(vit.rope).__name__}'
    return _unknown_parts(vit, EvaBlock, (EvaAttention, AttentionRope))


def _unknown_parts(vit: nn.Module, block: type, attentions: tuple[type, ...]) -> str:
    """Say what is unknown about the parts of a model."""
    if type(vit.patch_embed) is not PatchEmbed:
        return f'its patch embedding is {type(vit.patch_embed).__name__}'
    blocks = {type(b).__name__ for b in vit.blocks if type(b) is not block}
    if blocks:
        return f'its blocks are {", ".join(blocks)}'
    others = {type(b.attn).__name__ for b in vit.blocks if type(b.attn) not in attentions}
    if others:
        return f'its attention is {", ".join(others)}'
    if any(b.attn.gate is not None for b in vit.blocks):
        return 'its attention is gated'
    return ''
