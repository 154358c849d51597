"""Building timm models with errors that a user can act on."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import timm
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from hstpeft.errors import UserError, nearest

_OWNED_OPTIONS = {
    'pretrained': 'trunk.weights says what is loaded',
    'always_partition': 'trunk.detection_style=True gives the windows of detectors',
    **dict.fromkeys(
        ('dynamic_img_size', 'dynamic_img_pad', 'strict_img_size'),
        'a trunk takes images of any size',
    ),
    **dict.fromkeys(
        ('block_fn', 'mlp_layer', 'embed_layer'), 'the arch has it: choose another arch'
    ),
    **dict.fromkeys(
        ('num_classes', 'drop_rate', 'head_init_scale'), "it is of timm's head, which a trunk lacks"
    ),
    'device': 'a host moves its model',
    'dtype': 'trunk.dtype says what the frozen tensors are held in',
}
"""Options of timm's models that are not the user's, and why."""


def check_arch(arch: str, options: Mapping[str, Any], family: list[str], kind: type) -> None:
    """Refuse an unknown timm name, and options that are not the user's, see `check_options`."""
    if not timm.is_model(arch):
        raise UserError(f'trunk.arch {arch!r} is not a timm model: {nearest(arch, family)}')
    check_options(options, kind)


def check_options(options: Mapping[str, Any], kind: type) -> None:
    """Refuse options that timm's model class does not have, or that a trunk sets itself."""
    known = inspect.signature(kind).parameters
    for name in options:
        reason = _OWNED_OPTIONS.get(name)
        if reason is None and name not in known:
            reason = nearest(name, known.keys() - _OWNED_OPTIONS.keys())
        if reason:
            raise UserError(f'trunk.arch_options {name!r} cannot be set here: {reason}')


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
    name = f'{arch}.{weights}' if isinstance(weights, str) else arch
    known = timm.models.get_pretrained_cfg(name if timm.models.is_model_pretrained(name) else arch)
    return tuple(known.mean), tuple(known.std)


def check_img_size(size: int | Sequence[int], vit: nn.Module) -> None:
    """Refuse an image size that is not made of whole patches: its grid is that of the weights."""
    patch = vit.patch_embed.patch_size
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or any(a < b or a % b for a, b in zip(sides, patch, strict=True)):
        raise UserError(
            f'trunk.arch_options img_size {size} is not made of whole patches of {patch[0]} x '
            f'{patch[1]} pixels: set multiples of them, one number or (H, W)'
        )


def create_swin(arch: str, options: dict[str, Any], detection_style: bool) -> SwinTransformer:
    """Build a timm Swin without weights.

    Args:
        arch: Name of a timm model.
        options: Passed to ``timm.create_model``.
        detection_style: Whether windows keep their size, and odd blocks shift, on every grid.

    Raises:
        UserError: ``arch`` is unknown or no Swin, or an option is wrong.
    """
    family = timm.list_models(module='swin_transformer')
    check_arch(arch, options, family, SwinTransformer)
    forced = {'always_partition': True} if detection_style else {}
    options = {'drop_path_rate': 0.0, **options, **forced}
    swin = create_model(arch, options) if arch in family else None
    if type(swin) is not SwinTransformer:
        raise UserError(
            f'trunk.arch {arch!r} is not supported (it is no Swin): use a Swin of timm such as '
            'swin_base_patch4_window7_224'
        )
    if detection_style:
        return swin
    for stage, layer in enumerate(swin.layers):
        _check_windows(stage, layer.output_resolution, layer.blocks[0].window_size, swin)
        for block in layer.blocks:
            # As in Microsoft's code; timm would go on shifting along the other side.
            if 0 in block.shift_size:
                block.shift_size = (0, 0)
    return swin


def _check_windows(
    stage: int, grid: tuple[int, int], window: tuple[int, int], swin: SwinTransformer
) -> None:
    """Refuse a design whose windows stand over the edge: it was never pre-trained like that."""
    if grid[0] % window[0] or grid[1] % window[1]:
        multiple = window[0] * swin.patch_embed.patch_size[0] * 2 ** (len(swin.layers) - 1)
        raise UserError(
            f'trunk.arch_options img_size={swin.patch_embed.img_size} gives stage {stage} a grid '
            f'of {grid[0]} x {grid[1]}, which windows of {window[0]} x {window[1]} do not divide: '
            f'use an img_size that is a multiple of {multiple}, or another window_size'
        )
