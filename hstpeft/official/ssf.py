"""Names of official SSF checkpoints (dongzelian/SSF): timm's, and scales and shifts by their place."""

from collections.abc import Mapping

from torch import Tensor

from hstpeft.errors import UserError
from hstpeft.official.common import SWIN, TRUNK, without_swin_tables

_HEAD = {'head.weight': 'head.fc.weight', 'head.bias': 'head.fc.bias'}
# By the last part of the module that holds a pair, the layers before its first and second pair.
_LAYERS = {
    '': ('norm',),
    'patch_embed': ('proj', 'norm'),
    'block': ('norm1', 'norm2'),
    'attn': ('qkv', 'proj'),
    'mlp': ('fc1', 'fc2'),
}


def ssf_name(key: str, net: str) -> str | None:
    """Translate the official name of a scale, a shift or a head tensor; None for one of the trunk.

    Args:
        key: e.g. ``blocks.0.attn.ssf_scale_2``.
        net: What our names begin with, `TRUNK` or `SWIN`.

    Raises:
        UserError: It is the name of a pair that official SSF does not have.
    """
    if key in _HEAD:
        return _HEAD[key]
    place, _, leaf = key.rpartition('.')
    if not leaf.startswith(('ssf_scale_', 'ssf_shift_')):
        return None
    last = place.rpartition('.')[2]
    kind, number = leaf.removeprefix('ssf_').split('_')
    layers = _LAYERS.get('block' if last.isdigit() else last, ())
    layer = dict(enumerate(layers, start=1)).get(int(number))
    if layer is None:
        raise UserError(f'not an official SSF checkpoint: left over [{key!r}]')
    return f'{net}{place}.{layer}.adapter.{kind}' if place else f'{net}{layer}.adapter.{kind}'


def split_ssf(official: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split an official SSF checkpoint, ViT or Swin.

    Returns:
        The trunk by timm's names (a Swin's by Microsoft's), and the rest by our names.
    """
    kept = without_swin_tables(official)
    net = SWIN if 'layers.0.blocks.0.norm1.weight' in kept else TRUNK
    names = {key: ssf_name(key, net) for key in kept}
    trunk = {key: kept[key] for key, name in names.items() if name is None}
    return trunk, {name: kept[key] for key, name in names.items() if name is not None}
