"""Convolutions over the patches of a sequence that has other tokens too.

Shapes: B batch, E tokens that are no patches, L tokens, R channels, h w grid of a block.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from hstpeft.models.trunks.layout import Layout


def convolve_tokens(
    layout: Layout, index: int, tokens: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """Convolve the patches on their grid, and every other token on a map of its own of 1 x 1.

    A token alone sees the centre tap and the bias.

    Args:
        layout: Tells the patches.
        index: Number of the block.
        tokens: (B, L, R) or, in a trunk of stages, (B, h, w, R).
        weight: Of odd size: full (R, R, k, k) or, channel by channel, (R, 1, k, k).
        bias: (R).

    Returns:
        The shape of ``tokens``; the map is padded with zeros.
    """
    patches, others = layout.split(index, tokens)
    is_depthwise, middle = weight.shape[1] == 1, weight.shape[-1] // 2
    groups = len(weight) if is_depthwise else 1
    maps = F.conv2d(patches.permute(0, 3, 1, 2), weight, bias, padding=middle, groups=groups)
    if others.shape[1]:
        centre = weight[..., middle, middle]
        if is_depthwise:
            others = torch.addcmul(bias, others, centre[:, 0])
        else:
            others = F.linear(others, centre, bias)
    return layout.join(maps.permute(0, 2, 3, 1), others, tokens.dim() == 4)
