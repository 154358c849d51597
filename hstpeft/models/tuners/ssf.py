"""Scaling and Shifting Your Features (https://arxiv.org/abs/2210.08823).

Shapes: C channels of an output.
"""

import torch
from torch import Tensor, nn

from hstpeft.models.trunks import Trunk
from hstpeft.models.trunks.layers import AdaptedLayer
from hstpeft.models.tuners.base import Tuner
from hstpeft.models.tuners.folding import fold_output
from hstpeft.models.tuners.frozen import FrozenTuner
from hstpeft.registry import MODELS


@MODELS.register_module()
class SSFTuner(Tuner):
    """A scale and a shift per channel on the output of every layer of the trunk.

    ``y = scale * layer(x) + shift`` behind the patch convolution, every Linear and every norm,
    but not behind Swin's patch merging, which officially has none. Scales are drawn from
    N(1, 0.02) and shifts from N(0, 0.02), so that training does not start exactly from the
    pre-trained function. All of it merges into the layers.

    The parameters stand in the trunk, and a delta calls them by their place
    (``trunk...attn.qkv.adapter.scale``). Trainable values: twice the summed widths of the outputs;
    205,824 for a ViT-B/16, 267,264 for a Swin-B.
    """

    def attach(self, trunk: Trunk) -> None:
        """Put a scale and a shift on every layer that runs."""
        for index, name in layers_of(trunk):
            layer = trunk.layer(index, name)
            trunk.set_layer(index, name, AdaptedLayer(layer, ScaleShift(layer)))

    def trunk_parameters(self, trunk: Trunk) -> list[nn.Parameter]:
        """Return the scales and shifts."""
        adapters = [trunk.layer(index, name).adapter for index, name in layers_of(trunk)]
        return [parameter for adapter in adapters for parameter in adapter.parameters()]

    def merge(self, trunk: Trunk) -> Tuner:
        """Fold each pair into the layer before it.

        Raises:
            UserError: A layer has no bias that could take the shift.
        """
        for index, name in layers_of(trunk):
            adapted = trunk.layer(index, name)
            trunk.set_layer(index, name, adapted.base_layer)
            fold_output(trunk, index, name, adapted.adapter.scale, adapted.adapter.shift)
        return FrozenTuner()


class ScaleShift(nn.Module):
    """``scale * x + shift`` per channel of a layer's output.

    Args:
        layer: A Linear, a norm (channels last) or a convolution (channels second).
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        dims = len(layer.weight)
        shape = (dims, 1, 1) if isinstance(layer, nn.Conv2d) else (dims,)
        self.scale = nn.Parameter(torch.empty(dims).normal_(1, 0.02))
        self.shift = nn.Parameter(torch.empty(dims).normal_(0, 0.02))
        self.shape = shape

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        """Scale and shift what a layer made of ``given``; the same shape and dtype."""
        scale, shift = self.scale.view(self.shape), self.shift.view(self.shape)
        return torch.addcmul(shift, x.to(scale.dtype), scale).to(x.dtype)


def layers_of(trunk: Trunk) -> list[tuple[int | None, str]]:
    """List block number (None outside the blocks) and role of every layer that runs."""
    return [
        (index, name)
        for index in (None, *range(trunk.num_layers))
        for name in trunk.layer_names(index)
    ]
