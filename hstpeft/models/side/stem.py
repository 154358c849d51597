"""How the side network gets its maps: a stem on the image, a convolution between stages.

Shapes: B batch, D side width, H W pixels or cells of the map that comes in.
"""

import math

from torch import Tensor, nn


class Stem(nn.Module):
    """Image (B, 3, H, W) -> tokens (B, H/4 * W/4, D) and their grid."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(3, dims, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(dims),
            nn.ReLU(inplace=True),
            nn.Conv2d(dims, dims, 2, stride=2),
        )
        self.norm = nn.LayerNorm(dims)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return tokens (B, H/4 * W/4, D), row-major, and the grid."""
        return as_tokens(self.conv(image), self.norm)


class Downsample(nn.Module):
    """Map (B, D_before, H, W) -> tokens (B, ceil(H/2) * ceil(W/2), D) and their grid."""

    def __init__(self, in_dims: int, dims: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dims, dims, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(dims)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return tokens (B, ceil(H/2) * ceil(W/2), D), row-major, and the grid."""
        return as_tokens(self.conv(x), self.norm)


def as_tokens(x: Tensor, norm: nn.Module) -> tuple[Tensor, tuple[int, int]]:
    """Flatten a map (B, D, H, W) to normalised tokens (B, H * W, D)."""
    return norm(x.flatten(2).transpose(1, 2)), tuple(x.shape[-2:])


def init_convolution(conv: nn.Conv2d) -> None:
    """Fill with N(0, sqrt(2 / fan out)) and zero bias, as the paper's code does."""
    fan_out = math.prod(conv.kernel_size) * conv.out_channels
    nn.init.normal_(conv.weight, 0, math.sqrt(2 / fan_out))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
