"""Names of official RepAdapter checkpoints (luogen1996/RepAdapter): timm's, and the adapters.

The official code saves only what was trained: the adapters, as 1 x 1 convolutions, and the head.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from hstpeft.errors import UserError
from hstpeft.official.common import (
    SWIN,
    TUNER,
    Names,
    count,
    leaves,
    split_trained,
    stage_depths,
    swin_names,
    untranslate,
    without_swin_tables,
)

_ADAPTERS = {'attention': 'adapter_attn', 'mlp': 'adapter_mlp'}
_LAYERS = {'down': 'conv_A', 'up': 'conv_B'}
_QKV_BIAS = 'layers.0.blocks.0.attn.qkv.bias'


def repadapter_names(blocks: Sequence[str], positions: Sequence[str]) -> Names:
    """Pair the official names of what is trained with ours.

    Args:
        blocks: Official names of the blocks in order.
        positions: Of the tuner.
    """
    modules = {
        f'{block}.{_ADAPTERS[position]}.{official}': f'{TUNER}{position}.{index}.{own}'
        for index, block in enumerate(blocks)
        for position in positions
        for own, official in _LAYERS.items()
    }
    return leaves({**modules, 'head': 'head.fc'})


def block_names(keys: Mapping[str, Tensor]) -> list[str]:
    """Name the blocks of a ViT or Swin in order."""
    if depths := stage_depths(keys):
        return [f'layers.{s}.blocks.{j}' for s, depth in enumerate(depths) for j in range(depth)]
    return [f'blocks.{index}' for index in range(count(keys, 'blocks.'))]


def split_repadapter(
    official: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split an official RepAdapter checkpoint, or model, ViT or Swin.

    Returns:
        The trunk by timm's names, which a checkpoint does not have, and the rest by our names.
    """
    kept, blocks = without_swin_tables(official), block_names(official)
    positions = [own for own, name in _ADAPTERS.items() if _has(kept, name)]
    names = repadapter_names(blocks, positions)
    trunk, rest = split_trained(kept, names, 'RepAdapter')
    if depths := stage_depths(kept):
        own = swin_names(tuple(depths), qkv_bias=_QKV_BIAS in kept)
        trunk = {str(own.get(key, key)).removeprefix(SWIN): trunk[key] for key in trunk}
    return trunk, {k: v.squeeze(-1) if v.dim() == 3 else v for k, v in rest.items()}


def join_repadapter(trunk: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make an official RepAdapter checkpoint; the inverse of `split_repadapter` but for the trunk.

    Args:
        trunk: All trunk tensors by timm's names, which name the blocks.
        state: State dict of the classifier.

    Raises:
        UserError: There is no official form with an adapter at the MLP alone.
    """
    positions = [own for own in _ADAPTERS if f'{TUNER}{own}.0.up.weight' in state]
    if 'attention' not in positions:
        raise UserError('official RepAdapter is at the attention or at both: this is at the MLP')
    blocks = block_names(trunk)[: count(state, f'{TUNER}attention.')]
    official = untranslate(state, repadapter_names(blocks, positions))
    convolutions = tuple(f'.{conv}.weight' for conv in _LAYERS.values())
    return {k: v.unsqueeze(-1) if k.endswith(convolutions) else v for k, v in official.items()}


def _has(official: Mapping[str, Tensor], adapter: str) -> bool:
    """Tell whether any block has an adapter."""
    return any(key.split('.')[-3:-2] == [adapter] for key in official)
