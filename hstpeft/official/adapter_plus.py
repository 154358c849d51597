"""Names of official Adapter+ checkpoints (visinf/adapter_plus): timm's, and the adapters'."""

import itertools
from collections.abc import Mapping

from torch import Tensor

from hstpeft.errors import UserError
from hstpeft.official.common import TRUNK, TUNER, count, leaves

_ADAPTERS = {'adapter': 'adapters', 'adapter_attn': 'attn_adapters'}
_PARTS = {'bottleneck.1': 'down', 'bottleneck.4': 'up', 'norm_a': 'norm_in'}
# The official training holds timm's model under this name.
_MODEL = 'vit.'


def adapter_plus_names(depth: int) -> dict[str, str]:
    """Pair the names of all that an official checkpoint may have beside the trunk with ours.

    Args:
        depth: Blocks of the trunk.
    """
    modules, names = {'head': 'head.fc'}, {}
    for index, (adapter, own) in itertools.product(range(depth), _ADAPTERS.items()):
        official, ours = f'blocks.{index}.{adapter}', f'{TUNER}{own}.{index}'
        names[f'{official}.scaling'] = f'{ours}.scale'
        modules |= {f'{official}.{part}': f'{ours}.{name}' for part, name in _PARTS.items()}
    return {**leaves(modules), **names}


def split_adapter_plus(
    official: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split an official checkpoint.

    Returns:
        What there is of the trunk by timm's names (nothing, in what the official training saves),
        and the rest by our names.

    Raises:
        UserError: There are no adapters, or no head.
    """
    plain = {key.removeprefix(_MODEL): value for key, value in official.items()}
    names = adapter_plus_names(count(plain, 'blocks.'))
    trunk = {key: value for key, value in plain.items() if key not in names}
    for needed in ('head.weight', 'head.bias', 'blocks.0.adapter.bottleneck.1.weight'):
        if needed not in plain:
            raise UserError(f'not an official Adapter+ checkpoint: missing {needed}')
    return trunk, {own: plain[key] for key, own in names.items() if key in plain}


def join_adapter_plus(
    trunk: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Make an official checkpoint: adapters, head, and what else was trained, of the trunk.

    Args:
        trunk: The whole trunk by timm's names.
        state: A model's state dict.
    """
    names = adapter_plus_names(count(state, f'{TUNER}adapters.'))
    own = {key: state[name] for key, name in names.items() if name in state}
    trained = {key: value for key, value in trunk.items() if TRUNK + key in state}
    return {_MODEL + key: value for key, value in {**trained, **own}.items()}
