"""Names of official HVT checkpoints (MonashAI/HVT): timm's, but for the head."""

from collections.abc import Mapping

from torch import Tensor

from hstpeft.errors import UserError
from hstpeft.official.common import TRUNK

_HEAD = {'head.weight': 'head.fc.weight', 'head.bias': 'head.fc.bias'}


def split_hvt(official: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split an official HVT checkpoint.

    Returns:
        The trunk by its names in `HVTTrunk`, and the head by our names.

    Raises:
        UserError: There is no head.
    """
    missing = [key for key in _HEAD if key not in official]
    if missing:
        raise UserError(f'not an official HVT checkpoint: missing {missing}')
    trunk = {key: value for key, value in official.items() if key not in _HEAD}
    return trunk, {own: official[key] for key, own in _HEAD.items()}


def join_hvt(trunk: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make an official HVT checkpoint; the inverse of `split_hvt`."""
    return {**trunk, **{key: state[own] for key, own in _HEAD.items()}}


def hvt_names(own: str) -> str:
    """Return the official name of one of our parameters."""
    heads = {name: key for key, name in _HEAD.items()}
    return heads.get(own, own.removeprefix(TRUNK))
