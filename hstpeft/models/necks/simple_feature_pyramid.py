"""A pyramid from the maps of a plain vision transformer, which all have one stride.

Shapes: B batch, C width of the transformer, D width of the pyramid, h w cells of a map.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.errors import UserError
from hstpeft.registry import MODELS

SCALES = (4.0, 2.0, 1.0, 0.5)


@MODELS.register_module()
class SimpleFeaturePyramid(nn.Module):
    """Rescale one map, or one per level, to a pyramid (ViTDet, https://arxiv.org/abs/2203.16527).

    Fits where an FPN would stand, in mmseg and mmdet: a tuner without maps of its own on a ViT
    (``out_type='featmap'``) gives one map at stride 16 (``out_indices=[11]``) or one per level
    (``out_indices=[2, 5, 8, 11]``); scales 4, 2, 1 and 0.5 make strides 4, 8, 16 and 32.
    Every level is rescaled (transposed convolutions up, max pooling down), projected by 1 x 1 and
    mixed by 3 x 3, each followed by a LayerNorm over the channels.

    Args:
        in_channels: C, the same in all maps.
        out_channels: D.
        scales: Of each level, from high to low resolution: powers of 2 from 4 down.
        num_outs: Levels in all; those behind the last scale are pooled from the last one by 2.
            Default: one a scale.

    Raises:
        UserError: A scale cannot be made, or ``num_outs`` is below the number of scales.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        scales: Sequence[float] = SCALES,
        num_outs: int | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.scales = tuple(float(scale) for scale in scales)
        for scale in self.scales:
            if scale > 4 or scale <= 0 or not math.log2(scale).is_integer():
                raise UserError(
                    f'neck.scales {tuple(scales)} must be powers of 2, none above 4: got {scale:g}'
                )
        if list(self.scales) != sorted(set(self.scales), reverse=True):
            raise UserError(f'neck.scales {tuple(scales)} must fall from level to level')
        self.num_outs = len(self.scales) if num_outs is None else num_outs
        if self.num_outs < len(self.scales):
            raise UserError(
                f'neck.num_outs {num_outs} is below the {len(self.scales)} levels of neck.scales: '
                'give fewer scales'
            )
        self.levels = nn.ModuleList(
            _level(in_channels, out_channels, scale) for scale in self.scales
        )

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Make the pyramid.

        Args:
            feats: One map (B, C, h, w), or one a scale.

        Returns:
            Maps (B, D, h * scale, w * scale) of each scale, odd sides rounded up, and the pooled
            ones behind them; contiguous, as mmcv's RoIAlign takes for granted.

        Raises:
            UserError: Another number of maps, or maps of another width.
        """
        if len(feats) not in (1, len(self.levels)):
            raise UserError(
                f'neck: {len(feats)} maps for {len(self.levels)} scales: set '
                f'backbone.out_indices to one or to {len(self.levels)} blocks'
            )
        for x in feats:
            if x.dim() != 4 or x.shape[1] != self.in_channels:
                raise UserError(
                    f'neck.in_channels {self.in_channels} does not match a map of shape '
                    f"{tuple(x.shape)}: set it to the trunk's width, and backbone.out_type='featmap'"
                )
        read = list(feats) if len(feats) > 1 else [feats[0]] * len(self.levels)
        maps = [level(x).contiguous() for level, x in zip(self.levels, read, strict=True)]
        while len(maps) < self.num_outs:
            maps.append(F.max_pool2d(maps[-1], kernel_size=1, stride=2))
        return tuple(maps)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map (B, D, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every cell of x (B, D, h, w)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _level(in_channels: int, out_channels: int, scale: float) -> nn.Sequential:
    """Rescale, halving the width with every doubling of the sides, and project."""
    layers, width = [], in_channels
    if scale >= 2:
        layers.append(nn.ConvTranspose2d(width, width // 2, 2, stride=2))
        width //= 2
    if scale >= 4:
        layers += [ChannelNorm(width, eps=1e-6), nn.GELU()]
        layers.append(nn.ConvTranspose2d(width, width // 2, 2, stride=2))
        width //= 2
    if scale < 1:
        # Odd sides are rounded up, so that no pixel is left out.
        factor = round(1 / scale)
        layers.append(nn.MaxPool2d(factor, stride=factor, ceil_mode=True))
    return nn.Sequential(
        *layers,
        nn.Conv2d(width, out_channels, 1, bias=False),
        ChannelNorm(out_channels, eps=1e-6),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        ChannelNorm(out_channels, eps=1e-6),
    )
