"""Folding what a tuner does around a layer into the layer's weight and bias, in double precision.

Shapes: I input width and O output width of a layer.
"""

from torch import Tensor

from hstpeft.models.trunks import Trunk


def fold_input(trunk: Trunk, index: int, branch: str, matrix: Tensor, offset: Tensor) -> None:
    """Let the Linears of a branch read x where they read ``x M + b``, in place.

    Args:
        trunk: The trunk.
        index: Number of the block.
        branch: ``attention`` or ``mlp``.
        matrix: M (I, I).
        offset: b (I).

    Raises:
        UserError: A Linear has no bias that could take the offset, and cannot get one.
    """
    for name in trunk.readers(index, branch):
        linear = trunk.layer(index, name)
        weight = linear.weight.detach().double()
        add_to_bias(trunk, index, name, weight @ offset.detach().double())
        linear.weight.data = (weight @ matrix.detach().double().t()).to(linear.weight.dtype)


def fold_output(trunk: Trunk, index: int | None, name: str, scale: Tensor, shift: Tensor) -> None:
    """Let a layer give y where ``scale * y + shift`` was made of it, in place.

    Args:
        trunk: The trunk.
        index: Number of the block; None for a layer outside the blocks.
        name: Role of the layer: a Linear, a norm or a convolution.
        scale: (O).
        shift: (O).

    Raises:
        UserError: The layer has no bias that could take the shift, and cannot get one.
    """
    layer, scale = trunk.layer(index, name), scale.detach().double()
    rows = scale.view(-1, *[1] * (layer.weight.dim() - 1))
    layer.weight.data = (layer.weight.detach().double() * rows).to(layer.weight.dtype)
    if layer.bias is not None:
        layer.bias.data = (layer.bias.detach().double() * scale).to(layer.bias.dtype)
    add_to_bias(trunk, index, name, shift.detach().double())


def add_to_bias(trunk: Trunk, index: int | None, name: str, offset: Tensor) -> None:
    """Add to the bias (O) of a layer, in place; one without gets a bias if the family has it.

    Raises:
        UserError: It has none and cannot get one.
    """
    layer = trunk.layer(index, name)
    if layer.bias is None:
        trunk.give_bias(index, name)
    layer.bias.data = (layer.bias.detach().double() + offset).to(layer.bias.dtype)


def add_to_weight(trunk: Trunk, index: int, name: str, update: Tensor) -> None:
    """Let a Linear give ``y + update x`` for x where it gave y, in place.

    Args:
        trunk: The trunk.
        index: Number of the block.
        name: Role of the Linear.
        update: (O, I).
    """
    weight = trunk.layer(index, name).weight
    weight.data = (weight.detach().double() + update.detach().double()).to(weight.dtype)
