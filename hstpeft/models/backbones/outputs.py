"""What leaves a backbone: the outputs of its trunk, or the maps of a side network.

Each of the two knows widths and strides of what it gives, what it needs of the trunk for it, and
how to make it from that.

Shapes: B batch, C trunk width, D side width, H W pixels, h w grid.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hstpeft.errors import UserError
from hstpeft.models.trunks import Trunk
from hstpeft.models.tuners import Tuner

OUT_TYPES = ('attn_pool', 'cls_token', 'avg_featmap', 'featmap', 'raw')
_VECTORS = OUT_TYPES[:3]


class SideMaps:
    """The maps that a tuner with a side network makes.

    Args:
        trunk: Its blocks are read.
        tuner: Makes the maps.
        out_type: Must be None: there is one form.
        out_indices: Which maps; None for all.
        out_norm: Must be False: the side network has norms of its own.

    Attributes:
        out_type: None.
        indices: Which maps, counted from 0.
        channels: Width of each.
        strides: Pixels (height, width) of a cell of each.
        norms: Empty.
    """

    def __init__(
        self,
        trunk: Trunk,
        tuner: Tuner,
        out_type: str | None,
        out_indices: Sequence[int] | int | None,
        out_norm: bool,
    ) -> None:
        if out_type is not None:
            raise UserError(
                f'backbone.out_type {out_type!r} does not apply: this tuner gives its maps'
            )
        if out_norm:
            raise _norm_error()
        self.trunk, self.tuner, self.out_type = trunk, tuner, None
        strides = ', '.join(map(str, tuner.strides))
        count = len(tuner.strides)
        what = f'{tuner.kind} gives {count} maps, at strides {strides}'
        self.indices = _count_up(out_indices, count, range(count), what)
        self.channels = tuple(tuner.map_dims[index] for index in self.indices)
        self.strides = tuple((tuner.strides[i], tuner.strides[i]) for i in self.indices)
        self.norms = nn.ModuleDict()

    def read_indices(self) -> tuple[int, ...]:
        """Return the outputs of the trunk that are needed."""
        return self.tuner.tap_indices(self.trunk)

    def make(
        self, image: Tensor, padded: Tensor, taps: dict[int, Tensor], grid: tuple[int, int]
    ) -> tuple[Tensor, ...]:
        """Make the maps (B, D, ceil(H / stride), ceil(W / stride)).

        Args:
            image: (B, 3, H, W).
            padded: The same, padded.
            taps: Outputs of `read_indices`.
            grid: (h, w) of the trunk.
        """
        maps = self.tuner.maps(padded, taps, grid, self.trunk.num_prefix_tokens)
        chosen = [maps[index] for index in self.indices]
        return tuple(_crop(*pair, image) for pair in zip(chosen, self.strides, strict=True))


class TrunkOutputs:
    """The outputs of blocks or stages, in the form that ``out_type`` names.

    The trunk runs no block behind the last of them.

    Args:
        trunk: Gives them.
        tuner: May have put tokens into them.
        out_type: One of `OUT_TYPES`; None for the first that the trunk has.
        out_indices: Which blocks or stages; None for the last.
        out_norm: Whether a map gets a norm, unless it is the last, which the trunk's own is for.

    Attributes:
        out_type: Their form.
        indices: Which blocks or stages, counted from 0.
        channels: Width of each output.
        strides: Pixels (height, width) of a cell of each map; empty if they are no maps.
        norms: Norms by index.
    """

    def __init__(
        self,
        trunk: Trunk,
        tuner: Tuner,
        out_type: str | None,
        out_indices: Sequence[int] | int | None,
        out_norm: bool,
    ) -> None:
        self.trunk, self.tuner = trunk, tuner
        self.out_type = _check_out_type(out_type, trunk)
        count = len(trunk.output_strides)
        what = f'each of the {count} {trunk.output_kind}s of the trunk has an output'
        self.indices = _count_up(out_indices, count, (count - 1,), what)
        self.channels = tuple(trunk.output_dims[index] for index in self.indices)
        are_maps = self.out_type == 'featmap'
        self.strides = tuple(trunk.output_strides[i] for i in self.indices) if are_maps else ()
        if out_norm and not are_maps:
            raise _norm_error()
        self._last = count - 1
        normed = [pair for pair in zip(self.indices, self.channels, strict=True) if out_norm]
        self.norms = nn.ModuleDict(
            {str(index): nn.LayerNorm(dims) for index, dims in normed if index != self._last}
        )
        attends = {'attn_pools': True} if self.out_type == 'attn_pool' else {}
        trunk.stop_after(self.indices[-1], pools=self.out_type == 'avg_featmap', **attends)

    def read_indices(self) -> tuple[int, ...]:
        """Return the outputs of the trunk that are needed."""
        return self.indices

    def make(
        self, image: Tensor, padded: Tensor, taps: dict[int, Tensor], grid: tuple[int, int]
    ) -> tuple[Tensor | list[Tensor], ...]:
        """Turn each tapped output into its form; see `SideMaps.make` for the arguments."""
        return tuple(self._format(index, taps[index], image, grid) for index in self.indices)

    def _format(
        self, index: int, tokens: Tensor, image: Tensor, grid: tuple[int, int]
    ) -> Tensor | list[Tensor]:
        if index == self._last:
            tokens = self.trunk.final_norm(tokens)
        tokens = tokens.float() if tokens.dtype == torch.bfloat16 else tokens
        if self.out_type in _VECTORS:
            vector = self._to_vector(tokens)
            return list(vector.split(len(image))) if self.tuner.num_branches > 1 else vector
        grid = self.trunk.output_grid(index, grid)
        tokens = self.tuner.without_own_tokens(tokens[: len(image)], grid)
        if self.out_type == 'raw':
            return tokens
        if str(index) in self.norms:
            tokens = self.norms[str(index)](tokens)
        return _crop(self.trunk.to_map(tokens, grid), self.trunk.output_strides[index], image)

    def _to_vector(self, tokens: Tensor) -> Tensor:
        if self.out_type == 'cls_token':
            return tokens[:, 0]
        is_average = self.out_type == 'avg_featmap'
        return self.trunk.pool(tokens) if is_average else self.trunk.attention_pool(tokens)


def _crop(x: Tensor, stride: tuple[int, int], image: Tensor) -> Tensor:
    """Cut a map to the cells that the unpadded image touches, and lay it out channel by channel.

    mmcv's RoIAlign reads any map as if it lay like that, and gives wrong numbers without a word if
    it does not.
    """
    height, width = (math.ceil(n / s) for n, s in zip(image.shape[-2:], stride, strict=True))
    return x[..., :height, :width].contiguous()


def _norm_error() -> UserError:
    return UserError(
        "backbone.out_norm True applies to maps of the trunk: set out_type='featmap', and "
        'leave it out for a tuner that makes its own maps'
    )


def _check_out_type(out_type: str | None, trunk: Trunk) -> str:
    if out_type is not None and out_type not in OUT_TYPES:
        raise UserError(f'backbone.out_type {out_type!r} is unknown: use one of {OUT_TYPES}')
    if out_type is not None and out_type not in trunk.out_types:
        reason = trunk.out_type_note
        if out_type == 'attn_pool':
            reason = 'it takes a trunk with attention pooling that is kept (trunk.attn_pool=True)'
        raise UserError(f'backbone.out_type {out_type!r}: {reason}; use one of {trunk.out_types}')
    return out_type or trunk.out_types[0]


def _count_up(
    indices: Sequence[int] | int | None, count: int, default: Sequence[int], what: str
) -> tuple[int, ...]:
    """Return rising indices counted from 0."""
    if indices is None:
        return tuple(default)
    given = (indices,) if isinstance(indices, int) else tuple(indices)
    positive = [index + count if index < 0 else index for index in given]
    if not positive or min(positive) < 0 or max(positive) >= count or positive != sorted(positive):
        raise UserError(
            f'backbone.out_indices {given} must be rising numbers from 0 to {count - 1}, or from '
            f'-{count} to -1 counted from the end: {what}'
        )
    return tuple(positive)
