"""Names of official Convpass checkpoints (JieShibo/PETL-ViT): timm's, and bypasses by their block."""

from collections.abc import Mapping

from torch import Tensor

from hstpeft.errors import UserError
from hstpeft.official.common import TUNER, block_index, stage_depths, without_swin_tables

_HEAD = {'head.weight': 'head.fc.weight', 'head.bias': 'head.fc.bias'}
_POSITIONS = {'adapter_attn': 'attention', 'adapter_mlp': 'mlp'}
_LAYERS = {'adapter_down': 'down', 'adapter_conv': 'conv', 'adapter_up': 'up'}


def convpass_names(official: Mapping[str, Tensor] | set[str]) -> dict[str, str]:
    """Pair the official names of bypasses and head with ours; those of the trunk are left out.

    Raises:
        UserError: One is the name of a bypass that official Convpass does not have.
    """
    depths = stage_depths(official)
    names = {key: _HEAD[key] for key in official if key in _HEAD}
    for key in official:
        block, found, rest = key.partition('.adapter_')
        if not found:
            continue
        position, *layers = f'adapter_{rest}'.split('.')
        layer, leaf = layers if len(layers) == 2 else ('', '')
        if position not in _POSITIONS or layer not in _LAYERS:
            raise UserError(f'not an official Convpass checkpoint: left over [{key!r}]')
        index = block_index(block, depths)
        names[key] = f'{TUNER}{_POSITIONS[position]}.{index}.{_LAYERS[layer]}.{leaf}'
    return names


def split_convpass(official: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split an official Convpass checkpoint, ViT or Swin.

    Returns:
        The trunk by timm's names (a Swin's by Microsoft's), and the rest by our names.
    """
    kept = without_swin_tables(official)
    names = convpass_names(kept)
    trunk = {key: value for key, value in kept.items() if key not in names}
    return trunk, {name: kept[key] for key, name in names.items()}
