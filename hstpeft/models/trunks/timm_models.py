"""Building timm models with errors that a user can act on."""

import inspect
from collections.abc import Mapping
from typing import Any

import timm
from torch import Tensor, nn

from hstpeft.errors import UserError, nearest

_OWNED_OPTIONS = ('pretrained', 'num_classes', 'dynamic_img_size', 'dynamic_img_pad', 'block_fn')


def check_arch(arch: str, options: Mapping[str, Any], family: list[str], kind: type) -> None:
    """Refuse an unknown timm name, and options that its model class does not have."""
    if not timm.is_model(arch):
        raise UserError(f'trunk.arch {arch!r} is not a timm model: {nearest(arch, family)}')
    known = inspect.signature(kind).parameters
    for name in options:
        if name in _OWNED_OPTIONS or name not in known:
            allowed = [option for option in known if option not in _OWNED_OPTIONS]
            raise UserError(
                f'trunk.arch_options {name!r} cannot be set here: {nearest(name, allowed)}'
            )


def create_model(arch: str, options: Mapping[str, Any]) -> nn.Module:
    """Call timm; what it asserts about an option's value becomes a `UserError`."""
    try:
        # `dynamic_img_size` only lifts the check of the image size; `embed` does the rest.
        return timm.create_model(
            arch, pretrained=False, num_classes=0, dynamic_img_size=True, **options
        )
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f'trunk.arch_options {options} do not suit {arch}: {error or type(error).__name__}'
        ) from error


def mean_std(
    arch: str, weights: str | Mapping[str, Tensor] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Look up the channel means and deviations of a tag, or of the arch's usual weights."""
    tag = f'{arch}.{weights}'
    known = timm.models.get_pretrained_cfg(tag if timm.models.is_model_pretrained(tag) else arch)
    return tuple(known.mean), tuple(known.std)
