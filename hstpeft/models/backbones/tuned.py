"""The backbone: the only place where a trunk and a tuner meet.

Shapes: B batch, C trunk width, D side width, H W pixels, h w grid.
"""

import inspect
import math
from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.delta.ownership import freeze_all_but
from hstpeft.delta.state import encode_identity, install_state_hooks
from hstpeft.errors import UserError, nearest
from hstpeft.models.trunks import Trunk
from hstpeft.models.tuners import Tuner
from hstpeft.registry import MODELS

OUT_TYPES = ('cls_token', 'avg_featmap', 'featmap', 'raw')


@MODELS.register_module()
class TunedBackbone(BaseModule):
    """A frozen pre-trained trunk, adapted by a tuner; fits mmpretrain, mmseg and mmdet.

    Its state dict is the delta: the tuner, the trunk parameters that the tuner trains, and the
    trunk's identity. Loading refuses another trunk, another tuner, and any missing, unexpected or
    reshaped key. Config dicts end here: everything below takes flat, typed arguments.

    Args:
        trunk: Config of a trunk, e.g. ``dict(type='hstpeft.ViTTrunk', arch=..., weights=...)``.
        tuner: Config of a tuner, e.g. ``dict(type='hstpeft.HSTTuner')``.
        out_type: What a tuner without maps of its own gives, as in mmpretrain's ViT:
            ``cls_token``, ``avg_featmap``, ``featmap`` or ``raw``; the default is the first
            that the trunk has. HST always gives its maps.
        out_indices: Which maps (HST: default all four, at strides 4, 8, 16, 32), blocks (ViT)
            or stages (Swin; default the last) to return, in order; negative ones count from
            the end. A single number is a sequence of one.
        out_norm: Put a trainable LayerNorm on each map but the one of the last block or stage,
            which the trunk's own norm is for, as the hosts' Swin does: what reads the maps
            then finds them on one scale. Only with ``out_type='featmap'``.
        with_cp: Activation checkpointing: the backward pass runs each block of the trunk and of
            the side network again instead of keeping what happens in it. Same outputs and
            gradients, much less memory, about a third more time.
        init_cfg: Must be None: the trunk's weights come through ``trunk.weights``.

    Attributes:
        out_channels: Width of each entry of the output: the ``in_channels`` of what reads it.
        out_strides: Pixels (height, width) of a cell of each map; empty if the outputs are no
            maps (``cls_token``, ``avg_featmap``, ``raw``).

    Raises:
        UserError: An argument is wrong; names it, its value and the remedy.
    """

    def __init__(
        self,
        trunk: dict,
        tuner: dict,
        out_type: str | None = None,
        out_indices: Sequence[int] | int | None = None,
        out_norm: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        if init_cfg is not None:
            raise UserError(
                f'backbone.init_cfg {init_cfg} is not used: give the pre-trained weights as '
                'backbone.trunk.weights'
            )
        super().__init__()
        self.trunk: Trunk = _build('trunk', trunk)
        self.tuner: Tuner = _build('tuner', tuner)
        if not isinstance(self.trunk, self.tuner.trunk_types):
            allowed = ', '.join(f'hstpeft.{kind.__name__}' for kind in self.tuner.trunk_types)
            raise UserError(
                f'backbone.tuner {type(self.tuner).__name__} is not defined for a '
                f'{type(self.trunk).__name__}: use {allowed}'
            )
        has_maps = bool(self.tuner.strides)
        self.out_type = _check_out_type(out_type, self.trunk, has_maps)
        self.out_indices = _check_out_indices(out_indices, self.trunk, self.tuner)
        self.out_channels, self.out_strides = self._declare_outputs()
        self.out_norms = self._make_norms() if out_norm else nn.ModuleDict()
        if not has_maps:
            self.trunk.stop_after(self.out_indices[-1])
        self.trunk.with_cp = self.tuner.with_cp = with_cp
        self.tuner.attach(self.trunk)
        trained = [*self.tuner.own_parameters(), *self.tuner.trunk_parameters(self.trunk)]
        freeze_all_but(self, [*trained, *self.out_norms.parameters()])
        self.trunk.hold_frozen()
        install_state_hooks(self)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Extract features.

        Args:
            image: Normalised images (B, 3, H, W) of any size from one patch up.

        Returns:
            From high to low resolution. HST: maps (B, D, ceil(H / stride), ceil(W / stride)).
            Other tuners, one entry an index: ``cls_token`` and ``avg_featmap`` (B, C), for a
            tuner of two branches a list [image, prompt] of them; ``featmap``
            (B, C, ceil(H / stride), ceil(W / stride)) and ``raw`` (the trunk's tokens) of the
            image.
        """
        padded = self._pad(image)
        tokens, grid = self.trunk.embed(padded)
        if self.tuner.strides:
            read = self.tuner.tap_indices(self.trunk)
            taps = self.tuner.run(self.trunk, tokens, grid, read)
            maps = self.tuner.maps(padded, taps, grid, self.trunk.num_prefix_tokens)
            chosen = [maps[index] for index in self.out_indices]
            return tuple(_crop(*pair, image) for pair in zip(chosen, self.out_strides, strict=True))
        taps = self.tuner.run(self.trunk, tokens, grid, self.out_indices)
        return tuple(self._format(index, taps[index], image, grid) for index in self.out_indices)

    def get_extra_state(self) -> Tensor:
        """Return the trunk's identity, the tuner's kind and the trunk's form, packed."""
        return encode_identity(self.trunk.identity, self.tuner.kind + self.trunk.form)

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing to set: the load hook has compared the identity with the trunk's."""

    def _declare_outputs(self) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        """Return the width and the stride of each output, for whoever reads the maps."""
        dims = self.tuner.map_dims or self.trunk.output_dims
        strides = [(s, s) for s in self.tuner.strides] or self.trunk.output_strides
        are_maps = self.tuner.strides or self.out_type == 'featmap'
        return (
            tuple(dims[index] for index in self.out_indices),
            tuple(strides[index] for index in self.out_indices) if are_maps else (),
        )

    def _make_norms(self) -> nn.ModuleDict:
        """Make a norm for each map of a block or stage that the trunk's own is not for."""
        if self.tuner.strides or self.out_type != 'featmap':
            raise UserError(
                "backbone.out_norm True applies to maps of the trunk: set out_type='featmap', and "
                'leave it out for a tuner that makes its own maps'
            )
        last = len(self.trunk.output_dims) - 1
        return nn.ModuleDict(
            {
                str(index): nn.LayerNorm(dims)
                for index, dims in zip(self.out_indices, self.out_channels, strict=True)
                if index != last
            }
        )

    def _pad(self, image: Tensor) -> Tensor:
        """Pad right and bottom with zeros, once for trunk and side network alike."""
        height, width = image.shape[-2:]
        if height < self.trunk.patch_size[0] or width < self.trunk.patch_size[1]:
            patch = ' x '.join(map(str, self.trunk.patch_size))
            raise UserError(
                f'an image of {height} x {width} pixels is smaller than a patch of the trunk '
                f'({patch}): resize it in the pipeline'
            )
        multiples = [math.lcm(n, self.tuner.pixel_multiple) for n in self.trunk.pixel_multiple]
        bottom, right = -height % multiples[0], -width % multiples[1]
        return F.pad(image, (0, right, 0, bottom)) if bottom or right else image

    def _format(
        self, index: int, tokens: Tensor, image: Tensor, grid: tuple[int, int]
    ) -> Tensor | list[Tensor]:
        """Turn an output of the trunk into what ``out_type`` asks for."""
        if index == len(self.trunk.output_strides) - 1:
            tokens = self.trunk.final_norm(tokens)
        tokens = tokens.float() if tokens.dtype == torch.bfloat16 else tokens
        if self.out_type in ('raw', 'featmap'):
            tokens = tokens[: len(image)]
            if self.out_type == 'raw':
                return tokens
            if str(index) in self.out_norms:
                tokens = self.out_norms[str(index)](tokens)
            return _crop(self.trunk.to_map(tokens, grid), self.trunk.output_strides[index], image)
        vector = tokens[:, 0] if self.out_type == 'cls_token' else self.trunk.pool(tokens)
        branches = vector.split(len(image))
        return list(branches) if self.tuner.num_branches > 1 else vector


def _build(part: str, cfg: dict) -> nn.Module:
    """Build trunk or tuner; a misspelt type or option gets the nearest name."""
    kind = MODELS.get(str(cfg.get('type')))
    if kind is None:
        ours = [f'hstpeft.{name}' for name in MODELS.module_dict]
        raise UserError(
            f'backbone.{part} type {cfg.get("type")!r} is unknown: {nearest(str(cfg["type"]), ours)}'
        )
    options = {name: value for name, value in cfg.items() if name not in ('type', '_scope_')}
    known = inspect.signature(kind).parameters
    for name in options:
        if name not in known:
            raise UserError(f'backbone.{part} has no option {name!r}: {nearest(name, known)}')
    return kind(**options)


def _crop(x: Tensor, stride: tuple[int, int], image: Tensor) -> Tensor:
    """Cut a map to the cells that the unpadded image touches, and lay it out channel by channel.

    mmcv's RoIAlign reads any map as if it lay like that, and gives wrong numbers without a word if
    it does not.
    """
    height, width = (math.ceil(n / s) for n, s in zip(image.shape[-2:], stride, strict=True))
    return x[..., :height, :width].contiguous()


def _check_out_type(out_type: str | None, trunk: Trunk, has_maps: bool) -> str:
    if has_maps and out_type is not None:
        raise UserError(f'backbone.out_type {out_type!r} does not apply: this tuner gives its maps')
    if out_type is not None and out_type not in OUT_TYPES:
        raise UserError(f'backbone.out_type {out_type!r} is unknown: use one of {OUT_TYPES}')
    if out_type is not None and out_type not in trunk.out_types:
        raise UserError(
            f'backbone.out_type {out_type!r}: {trunk.out_type_note}; use one of {trunk.out_types}'
        )
    return out_type or trunk.out_types[0]


def _check_out_indices(
    indices: Sequence[int] | int | None, trunk: Trunk, tuner: Tuner
) -> tuple[int, ...]:
    """Return the indices counted from 0; all maps of the tuner, or the trunk's last output."""
    count = len(tuner.strides or trunk.output_strides)
    if indices is None:
        return tuple(range(count)) if tuner.strides else (count - 1,)
    given = (indices,) if isinstance(indices, int) else tuple(indices)
    positive = [index + count if index < 0 else index for index in given]
    if not positive or min(positive) < 0 or max(positive) >= count or positive != sorted(positive):
        what = f'each of the {count} {trunk.output_kind}s of the trunk has an output'
        if tuner.strides:
            strides = ', '.join(map(str, tuner.strides))
            what = f'{type(tuner).__name__} gives {count} maps, at strides {strides}'
        raise UserError(
            f'backbone.out_indices {given} must be rising numbers from 0 to {count - 1}, or from '
            f'-{count} to -1 counted from the end: {what}'
        )
    return tuple(positive)
