"""How the side network gets its maps: a stem on the image, a convolution between stages.

Shapes: B batch, D side width, H W pixels or cells of the map that comes in.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEM_NORMS = ('BN', 'SyncBN', 'FrozenBN', 'GN')


class Stem(nn.Module):
    """Image (B, 3, H, W) -> tokens (B, H/4 * W/4, D) and their grid.

    Args:
        dims: D.
        norm: One of `STEM_NORMS`.
    """

    def __init__(self, dims: int, norm: str = 'BN') -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(3, dims, 3, stride=2, padding=1, bias=False),
            build_norm(norm, dims),
            nn.ReLU(inplace=True),
            nn.Conv2d(dims, dims, 2, stride=2),
        )
        self.norm = nn.LayerNorm(dims)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return tokens (B, H/4 * W/4, D), row-major, and the grid."""
        return as_tokens(self.conv(image), self.norm)


class FrozenBatchNorm2d(nn.Module):
    """A BatchNorm that always uses its running statistics and learns nothing.

    Its keys are those of `nn.BatchNorm2d`. All its tensors are buffers, and it is no subclass:
    what syncs or converts BatchNorms must leave it alone.
    """

    def __init__(self, dims: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (('weight', 1), ('bias', 0), ('running_mean', 0), ('running_var', 1)):
            self.register_buffer(name, torch.full((dims,), float(value)))
        self.register_buffer('num_batches_tracked', torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, D, H, W)."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def build_norm(name: str, dims: int) -> nn.Module:
    """Build one of `STEM_NORMS` for D channels."""
    if name == 'GN':
        # At most 32 groups as usual; of one channel each it would be another norm (instance norm).
        return nn.GroupNorm(math.gcd(32, dims, dims // 2), dims)
    kinds = {'BN': nn.BatchNorm2d, 'SyncBN': nn.SyncBatchNorm, 'FrozenBN': FrozenBatchNorm2d}
    return kinds[name](dims)


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
