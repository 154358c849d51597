"""Names of official SA2VP checkpoints (tommy-xq/SA2VP), and ours."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from hstpeft.errors import UserError
from hstpeft.official.common import (
    SWIN,
    TRUNK,
    TUNER,
    Names,
    count,
    join_trunk,
    leaves,
    split_trunk,
    swin_names,
    translate,
    untranslate,
    without_swin_tables,
)

_VIT = 'vit_base.transformer.'
_SWIN = 'vit_base.'
_STAGE = 2


def sa2vp_vit_names(depth: int, num_deep: int, tied: bool) -> Names:
    """Pair the names of official SA2VP on a ViT with ours.

    Args:
        depth: Blocks of the trunk.
        num_deep: Blocks that add a prompt.
        tied: Whether the cross-attention's frozen weights are the blocks' (and left out here).
    """
    encoder = f'{_VIT}encoder.'
    names = {
        f'{_VIT}embeddings.cls_token': f'{TRUNK}cls_token',
        f'{_VIT}embeddings.position_embeddings': f'{TRUNK}pos_embed',
        f'{_VIT}embeddings.ppt': f'{TUNER}prompt',
    }
    modules = {
        f'{_VIT}embeddings.patch_embeddings': f'{TRUNK}patch_embed.proj',
        f'{_VIT}embeddings.ppt_proj': f'{TUNER}prompt_proj',
        f'{encoder}encoder_norm': f'{TRUNK}norm',
        'class_head': 'head.fc',
    }
    if num_deep:
        names[f'{encoder}deep_ppt'] = f'{TUNER}deep_prompts'
        names[f'{encoder}cross_conv'] = f'{TUNER}deep_scales'
    for number in range(num_deep):
        modules[f'{encoder}deep_proj.{number}'] = f'{TUNER}deep_projs.{number}'
    for index in range(depth):
        layer, block = f'{encoder}layer.{index}', f'{TRUNK}blocks.{index}'
        cross, copies = f'{encoder}cross_attn.{index}', f'{TUNER}copies.{index}'
        for third, part in enumerate(('query', 'key', 'value')):
            modules[f'{layer}.attn.{part}'] = (f'{block}.attn.qkv', third)
        modules[f'{layer}.attn.out'] = f'{block}.attn.proj'
        modules[f'{layer}.attention_norm'] = f'{block}.norm1'
        modules[f'{layer}.ffn_norm'] = f'{block}.norm2'
        modules[f'{layer}.ffn.fc1'] = f'{block}.mlp.fc1'
        modules[f'{layer}.ffn.fc2'] = f'{block}.mlp.fc2'
        modules.update(_cross_names(cross, index))
        if not tied:
            for third, part in enumerate(('to_q', 'to_k', 'to_v')):
                modules[f'{cross}.attn.{part}'] = (f'{copies}.qkv', third)
            modules[f'{cross}.attn.to_out'] = f'{copies}.proj'
            modules[f'{cross}.attention_norm'] = f'{copies}.norm'
    return {**leaves(modules), **names}


def sa2vp_swin_names(depths: Sequence[int], tied: bool) -> Names:
    """Pair the names of official SA2VP on a Swin with ours.

    Args:
        depths: Blocks of each stage.
        tied: Whether the cross-attention's frozen weights are the blocks' (and left out here).
    """
    modules = {f'{_SWIN}patch_embed.proj_ppt': f'{TUNER}prompt_proj', 'class_head': 'head.fc'}
    for index in range(depths[_STAGE]):
        cross, copies = f'{_SWIN}layers.{_STAGE}.cross_attn.{index}', f'{TUNER}copies.{index}'
        modules.update(_cross_names(cross, index))
        if not tied:
            modules[f'{cross}.attn.qkv'] = f'{copies}.qkv'
            modules[f'{cross}.attn.to_out'] = f'{copies}.proj'
            modules[f'{cross}.attention_norm'] = f'{copies}.norm'
    names = {f'{_SWIN}patch_embed.deep_ppt': f'{TUNER}prompt'}
    return {**swin_names(tuple(depths), _SWIN), **leaves(modules), **names}


def frozen_copies(depth: int, swin: bool) -> dict[str, str]:
    """Pair each frozen cross-attention weight of an official checkpoint with its original.

    Args:
        depth: Blocks that exchange.
        swin: Whether the trunk is a Swin.
    """
    pairs = {}
    for index in range(depth):
        if swin:
            cross = f'{_SWIN}layers.{_STAGE}.cross_attn.{index}'
            block = f'{_SWIN}layers.{_STAGE}.blocks.{index}'
            parts = {'attn.qkv': 'attn.qkv', 'attn.to_out': 'attn.proj', 'attention_norm': 'norm1'}
        else:
            cross, block = (f'{_VIT}encoder.{part}.{index}' for part in ('cross_attn', 'layer'))
            parts = {
                'attn.to_q': 'attn.query',
                'attn.to_k': 'attn.key',
                'attn.to_v': 'attn.value',
                'attn.to_out': 'attn.out',
                'attention_norm': 'attention_norm',
            }
        pairs.update({f'{cross}.{copy}': f'{block}.{own}' for copy, own in parts.items()})
    return leaves(pairs)


def is_tied(official: Mapping[str, Tensor]) -> bool:
    """Tell whether the frozen cross-attention weights equal the blocks', as they should."""
    swin = f'{_SWIN}patch_embed.deep_ppt' in official
    prefix = f'{_SWIN}layers.{_STAGE}.cross_attn.' if swin else f'{_VIT}encoder.cross_attn.'
    pairs = frozen_copies(count(official, prefix), swin)
    missing = sorted({*pairs, *pairs.values()} - official.keys())
    if missing or not pairs:
        raise UserError(f'not an official SA2VP checkpoint: missing {missing[:6]}')
    return all(official[copy].equal(official[own]) for copy, own in pairs.items())


def split_sa2vp(
    official: Mapping[str, Tensor], tied: bool | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split an official SA2VP checkpoint, ViT or Swin.

    Args:
        official: The checkpoint.
        tied: Whether the frozen cross-attention weights shall be left out. Default: if they
            equal the blocks'.

    Returns:
        The trunk by timm's names, and the rest by our names.

    Raises:
        UserError: There are names that official SA2VP does not have, or some are missing; or
            copies that differ shall be left out.
    """
    equal = is_tied(official)
    if tied and not equal:
        raise UserError(
            "the official checkpoint's cross-attention weights differ from its blocks': set "
            'model.backbone.tuner.tie_cross_attention=False'
        )
    tied = equal if tied is None else tied
    kept = without_swin_tables(official)
    swin = f'{_SWIN}patch_embed.deep_ppt' in official
    if swin:
        stages = count(kept, f'{_SWIN}layers.')
        depths = [count(kept, f'{_SWIN}layers.{stage}.blocks.') for stage in range(stages)]
        names, num_exchanging = sa2vp_swin_names(depths, tied), depths[_STAGE]
    else:
        num_exchanging = count(kept, f'{_VIT}encoder.layer.')
        num_deep = count(kept, f'{_VIT}encoder.deep_proj.')
        names = sa2vp_vit_names(num_exchanging, num_deep, tied)
    if tied:
        copies = frozen_copies(num_exchanging, swin)
        kept = {key: value for key, value in kept.items() if key not in copies}
    return split_trunk(translate(kept, names, 'SA2VP'), SWIN if swin else TRUNK)


def join_sa2vp(trunk: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make an official SA2VP checkpoint; the inverse of `split_sa2vp`.

    Args:
        trunk: All trunk tensors by timm's names.
        state: State dict of the classifier.
    """
    tied = f'{TUNER}copies.0.norm.weight' not in state
    swin = 'cls_token' not in trunk
    if swin:
        stages = count(trunk, 'layers.')
        depths = [count(trunk, f'layers.{stage}.blocks.') for stage in range(stages)]
        names, num_exchanging = sa2vp_swin_names(depths, tied), depths[_STAGE]
    else:
        num_exchanging = count(trunk, 'blocks.')
        num_deep = count(state, f'{TUNER}deep_projs.')
        names = sa2vp_vit_names(num_exchanging, num_deep, tied)
    official = untranslate(join_trunk(trunk, state, SWIN if swin else TRUNK), names)
    if tied:
        pairs = frozen_copies(num_exchanging, swin)
        official.update({copy: official[own].clone() for copy, own in pairs.items()})
    return official


def _cross_names(cross: str, index: int) -> dict[str, str]:
    own = f'{TUNER}cross.{index}'
    return {
        f'{cross}.ffn_norm': f'{own}.norm',
        f'{cross}.ffn.fc1': f'{own}.down',
        f'{cross}.ffn.fc2': f'{own}.up',
    }
