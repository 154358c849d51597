"""Names of official Mona checkpoints (Leiyi-Hu/mona, classification): Microsoft's Swin, and Mona."""

from collections.abc import Mapping

from torch import Tensor

from hstpeft.errors import UserError
from hstpeft.official.common import TUNER, block_index, stage_depths, without_swin_tables

_BACKBONE = 'backbone.'
_ADAPTERS = {'my_module_1': 'attention', 'my_module_2': 'mlp'}
_PARTS = {
    'gamma': 'gamma',
    'gammax': 'gammax',
    'norm': 'norm',
    'project1': 'down',
    'project2': 'up',
    'adapter_conv.conv1': 'convs.0',
    'adapter_conv.conv2': 'convs.1',
    'adapter_conv.conv3': 'convs.2',
    'adapter_conv.projector': 'projector',
}


def mona_names(official: Mapping[str, Tensor] | set[str]) -> dict[str, str]:
    """Pair the official names of adapters and head with ours; those of the trunk are left out.

    Raises:
        UserError: One is the name of a part that official Mona does not have.
    """
    depths = stage_depths(official, _BACKBONE)
    names = {}
    for key in official:
        block, found, rest = key.removeprefix(_BACKBONE).partition('.my_module_')
        if key.startswith('head.'):
            names[key] = key
        elif found:
            adapter, _, part = f'my_module_{rest}'.partition('.')
            module, _, leaf = ('', '', part) if part in _PARTS else part.rpartition('.')
            own = _PARTS.get(module or leaf)
            if adapter not in _ADAPTERS or own is None:
                raise UserError(f'not an official Mona checkpoint: left over [{key!r}]')
            parts = [f'{TUNER}{_ADAPTERS[adapter]}', str(block_index(block, depths)), own]
            names[key] = '.'.join([*parts, *([leaf] if module else [])])
    return names


def split_mona(official: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split an official Mona checkpoint.

    Returns:
        The trunk by Microsoft's names, where its last norm is ``norm``, and the rest by our names.
    """
    kept = without_swin_tables(official)
    names = mona_names(kept)
    last = f'norm{len(stage_depths(kept, _BACKBONE)) - 1}.'
    trunk = {}
    for key, value in kept.items():
        own = key.removeprefix(_BACKBONE)
        if key not in names:
            trunk[f'norm.{own.removeprefix(last)}' if own.startswith(last) else own] = value
    return trunk, {name: kept[key] for key, name in names.items()}
