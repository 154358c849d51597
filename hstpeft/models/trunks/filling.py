"""Putting weights into a trunk, every tensor of both sides.

Shapes: P prefix tokens, C trunk width, h w grid.
"""

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from hstpeft.delta import list_differences
from hstpeft.errors import UserError
from hstpeft.models.trunks.qkv_biases import join_pairs, split_biases


def fill_vit(vit: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """Copy weights into a ViT of timm; each tensor must be used and each of the model's be filled.

    The position embedding keeps the size of the file, whatever the model was built for.

    Args:
        vit: timm's model, the biases of its attention joined.
        tensors: By the names of timm's files.

    Returns:
        The grid (h, w) of the position embedding; without one, that the model was built for.

    Raises:
        UserError: Lists what is missing, left over or of another shape.
    """
    _check_fit(split_biases(vit.blocks, vit.state_dict()), tensors, resampled=('pos_embed',))
    grid = tuple(vit.patch_embed.grid_size)
    if vit.pos_embed is not None:
        num_prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        grid = _position_grid(tensors['pos_embed'], vit, num_prefix)
        vit.pos_embed = nn.Parameter(torch.empty(tensors['pos_embed'].shape))
    vit.load_state_dict(join_pairs(vit.blocks, tensors))
    return grid


def fill(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy weights into a model all of whose tensors must have the file's shape.

    Raises:
        UserError: Lists what is missing, left over or of another shape.
    """
    _check_fit(net.state_dict(), tensors)
    net.load_state_dict(dict(tensors))


def _check_fit(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], resampled: Collection[str] = ()
) -> None:
    differences = list_differences(own, tensors, resampled)
    if differences:
        raise UserError(
            f'trunk.weights do not fit the arch: {differences}. '
            'Choose the arch (and arch_options) that the file was made for'
        )


def _position_grid(pos_embed: Tensor, vit: nn.Module, num_prefix: int) -> tuple[int, int]:
    """Find the grid of a position embedding (1, P + h * w, C): the model's own, or square."""
    length = pos_embed.shape[1] - num_prefix
    if pos_embed.shape[-1] != vit.embed_dim:
        raise UserError(
            f'trunk.weights do not fit the arch: shape pos_embed {tuple(pos_embed.shape)}, the '
            f'width of the arch is {vit.embed_dim}'
        )
    if length == math.prod(vit.patch_embed.grid_size):
        return tuple(vit.patch_embed.grid_size)
    side = math.isqrt(max(length, 0))
    if side * side != length or length == 0:
        raise UserError(
            f'trunk.weights have a position embedding of {length} patches, which is no square '
            'grid: give the image size it was trained with as arch_options img_size=(H, W)'
        )
    return side, side
