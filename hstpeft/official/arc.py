"""Names of official ARC checkpoints (DavidYanAnDe/ARC), and ours."""

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

# Of the two official files with the same arithmetic: down projection, then rescaling and bias of
# a layer, for each position.
_ADAPTERS = {
    'attention': ('att_down_projection', 'att_adapter.adapter_rescale', 'att_adapter.adapter_bias'),
    'mlp': ('mlp_down_projection', 'mlp_adapter.adapter_rescale', 'mlp_adapter.adapter_bias'),
}
_NEW_ADAPTERS = {
    'attention': ('left_u_att', 'att_scale', 'att_scale_bias'),
    'mlp': ('left_u_mlp', 'mlp_scale', 'mlp_scale_bias'),
}
_QKV_BIAS = 'layers.0.blocks.0.attn.qkv.bias'
_SWIN_ADAPTERS = {
    'attention': ('attn_u', 'attn_lambda', 'attn_lambda_bias'),
    'mlp': ('mlp_u', 'mlp_lambda', 'mlp_lambda_bias'),
}


def arc_vit_names(depth: int, positions: Sequence[str], new: bool = False) -> Names:
    """Pair the names of official ARC on a ViT with ours.

    Args:
        depth: Blocks of the trunk.
        positions: Positions of the adapters.
        new: Whether the names are those of ``ARC_new.py`` instead of ``ARC_ViT.py``.
    """
    modules = {
        'embedding.projective': f'{TRUNK}patch_embed.proj',
        'transformer.layer_norm': f'{TRUNK}norm',
        'head_mlp.head': 'head.fc',
    }
    names = {
        'embedding.cls': f'{TRUNK}cls_token',
        'embedding.position_embedding': f'{TRUNK}pos_embed',
    }
    for index in range(depth):
        layer, block = f'transformer.layer.{index}', f'{TRUNK}blocks.{index}'
        for third, part in enumerate(('query', 'key', 'value')):
            modules[f'{layer}.attention.{part}'] = (f'{block}.attn.qkv', third)
        modules[f'{layer}.attention.projective'] = f'{block}.attn.proj'
        modules[f'{layer}.mlp.fc1'] = f'{block}.mlp.fc1'
        modules[f'{layer}.mlp.fc2'] = f'{block}.mlp.fc2'
        modules[f'{layer}.att_layer_norm'] = f'{block}.norm1'
        modules[f'{layer}.fnn_layer_norm'] = f'{block}.norm2'
    for position in positions:
        projection, scale, bias = (_NEW_ADAPTERS if new else _ADAPTERS)[position]
        own = TUNER + position
        names[f'transformer.{projection}'] = f'{own}.projections.0'
        for index in range(depth):
            names[f'transformer.layer.{index}.{scale}'] = f'{own}.scales.{index}'
            names[f'transformer.layer.{index}.{bias}'] = f'{own}.biases.{index}'
    return {**leaves(modules), **names}


def arc_swin_names(depths: Sequence[int], positions: Sequence[str], qkv_bias: bool = True) -> Names:
    """Pair the names of official ARC on a Swin with ours, its aliases left out."""
    names = {**swin_names(tuple(depths), qkv_bias=qkv_bias), **leaves({'head': 'head.fc'})}
    for position in positions:
        projection, scale, bias = _SWIN_ADAPTERS[position]
        own, index = TUNER + position, 0
        for stage, depth in enumerate(depths):
            names[f'layers.{stage}.{projection}'] = f'{own}.projections.{stage}'
            for block in range(depth):
                part = f'layers.{stage}.blocks.{block}'
                names[f'{part}.{scale}'] = f'{own}.scales.{index}'
                names[f'{part}.{bias}'] = f'{own}.biases.{index}'
                index += 1
    return names


def split_arc(official: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split an official ARC checkpoint, ViT (either naming) or Swin.

    Returns:
        The trunk by timm's names, and the rest by our names.

    Raises:
        UserError: There are names that official ARC does not have, or some are missing.
    """
    if 'patch_embed.norm.weight' in official:
        kept = without_aliases(without_swin_tables(official))
        depths = tuple(
            count(kept, f'layers.{stage}.blocks.') for stage in range(count(kept, 'layers.'))
        )
        names = arc_swin_names(depths, ('attention', 'mlp'), _QKV_BIAS in kept)
        return split_trunk(translate(kept, names, 'ARC'), SWIN)
    depth = count(official, 'transformer.layer.')
    for new, adapters in ((False, _ADAPTERS), (True, _NEW_ADAPTERS)):
        positions = [p for p, (name, *_) in adapters.items() if f'transformer.{name}' in official]
        if positions:
            names = arc_vit_names(depth, positions, new)
            return split_trunk(translate(official, names, 'ARC'))
    raise UserError(
        'the checkpoint has no shared projection (att_down_projection, left_u_att or attn_u): it '
        'is not an official ARC one'
    )


def without_aliases(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the further names that official Swin checkpoints have for a stage's projection.

    Raises:
        UserError: An alias holds another tensor than the stage.
    """
    kept = {}
    for key, value in official.items():
        parts = key.split('.')
        if parts[0] == 'layers' and len(parts) == 5 and parts[4] in ('attn_u', 'mlp_u'):
            owner = f'layers.{parts[1]}.{parts[4]}'
            if owner not in official or not official[owner].equal(value):
                raise UserError(f'{key} of the official checkpoint differs from {owner}')
        else:
            kept[key] = value
    return kept


def join_arc(
    trunk: Mapping[str, Tensor], state: Mapping[str, Tensor], new: bool = False
) -> dict[str, Tensor]:
    """Make an official ARC checkpoint; the inverse of `split_arc`.

    Args:
        trunk: All trunk tensors by timm's names.
        state: State dict of the classifier.
        new: Whether to use the names of ``ARC_new.py`` (ViT only).

    Raises:
        UserError: The official Swin has no form with one position only, and one naming.
    """
    positions = [p for p in _ADAPTERS if f'{TUNER}{p}.projections.0' in state]
    if 'cls_token' in trunk:
        names = arc_vit_names(count(trunk, 'blocks.'), positions, new)
        return untranslate(join_trunk(trunk, state), names)
    if len(positions) < 2:
        raise UserError('official ARC on a Swin has both positions: this delta has one')
    if new:
        raise UserError("naming 'new' is that of a ViT: official ARC on a Swin has one naming")
    depths = [count(trunk, f'layers.{s}.blocks.') for s in range(count(trunk, 'layers.'))]
    names = arc_swin_names(depths, positions, _QKV_BIAS in trunk)
    official = untranslate(join_trunk(trunk, state, SWIN), names)
    for stage, depth in enumerate(depths):
        for name in ('attn_u', 'mlp_u'):
            for block in range(depth):
                alias = f'layers.{stage}.blocks.{block}.{name}'
                official[alias] = official[f'layers.{stage}.{name}']
    return official
