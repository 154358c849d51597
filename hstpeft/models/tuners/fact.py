"""Factor-Tuning (https://arxiv.org/abs/2212.03145).

Shapes: C trunk width, R rank, I and O pieces of width C that a layer reads and gives: 1 and 3 for
``qkv``, 1 and 1 for ``proj``, 1 and K for ``fc1``, K and 1 for ``fc2``, K the MLP's ratio.
"""

from typing import Any

from torch import Tensor, nn

from hstpeft.errors import check_choice, check_least, check_rate
from hstpeft.models.trunks import Trunk
from hstpeft.models.trunks.layers import AdaptedLayer
from hstpeft.models.trunks.widths import cut_layers
from hstpeft.models.tuners.base import Tuner
from hstpeft.models.tuners.factors import Factors, TensorTrain, Tucker
from hstpeft.models.tuners.folding import add_to_weight
from hstpeft.models.tuners.frozen import FrozenTuner
from hstpeft.registry import MODELS

FORMS = {'tt': TensorTrain, 'tk': Tucker}


@MODELS.register_module()
class FacTTuner(Tuner):
    """Low-rank updates of all Linears of all blocks, whose outer factors are shared by all.

    ``y = layer(x) + scale * V K U x`` with one U (R, C) and one V (C, R) for the whole network.
    Queries, keys, values and the attention's projection have a K of R x R each. A layer that gives
    K pieces of width C has one of K R x R, whose pieces V widens one by one; one that reads K
    pieces has one of R x K R, and U narrows them one by one. ``tt`` (tensor train) has all these
    cores as parameters; ``tk`` (Tucker) mixes each R x R of them from the R slices of one tensor.
    V is zero at first, so that training starts from the pre-trained function; the tensors of
    ``tk`` are Xavier uniform, the others as a Linear of PyTorch. It merges into the Linears.

    Trainable values: ``tt`` 2 C R + n R^2 and ``tk`` 2 C R + R^3 + n R, with n = 4 + 2 K for each
    block. For a ViT-B/16 61,440 with the default options and 30,976 as ``tk`` (of rank 32 86,528).

    Args:
        form: ``tt`` or ``tk``.
        rank: R.
        scale: Factor of the updates.
        drop_rate: Dropout between a core and V.

    Raises:
        UserError: A wrong option; in `attach`, a trunk whose layers cannot be cut into pieces of
            its width: a gated MLP, or one whose ratio is no whole number.
    """

    needs = ('one_stage', 'whole_widths')

    def __init__(
        self, form: str = 'tt', rank: int = 16, scale: float = 1.0, drop_rate: float = 0.1
    ) -> None:
        super().__init__()
        check_choice('tuner.form', form, tuple(FORMS))
        check_least('tuner.rank', rank, 1)
        check_rate('tuner.drop_rate', drop_rate)
        self.form, self.rank, self.scale, self.drop_rate = form, rank, scale, drop_rate

    def attach(self, trunk: Trunk) -> None:
        """Build the factors, and let every Linear of every block add its update."""
        blocks = range(trunk.num_layers)
        pieces = [cut_layers(trunk, trunk.embed_dims, index) for index in blocks]
        self.factors = FORMS[self.form](trunk.embed_dims, self.rank, self.drop_rate, pieces)
        for index, layers in enumerate(pieces):
            for name in layers:
                update = Update(self.factors, index, name, self.scale)
                trunk.set_layer(index, name, AdaptedLayer(trunk.layer(index, name), update))

    def description(self) -> dict[str, Any]:
        """Return form and scale."""
        return {'form': self.form, 'scale': self.scale}

    def merge(self, trunk: Trunk) -> Tuner:
        """Add each update to the weight of its layer."""
        for index, layers in enumerate(self.factors.pieces):
            for name in layers:
                trunk.set_layer(index, name, trunk.layer(index, name).base_layer)
                add_to_weight(trunk, index, name, self.scale * self.factors.matrix(index, name))
        return FrozenTuner()


class Update(nn.Module):
    """What FacT adds to the output of one layer; it has no parameters.

    Args:
        factors: Of the tuner, which owns them.
        index: Number of the block.
        name: Role of the layer.
        scale: Factor of the update.
    """

    def __init__(self, factors: Factors, index: int, name: str, scale: float) -> None:
        super().__init__()
        # In a tuple the shared factors are no child of every layer: a state dict has them once,
        # by the tuner, and a copy of the backbone still refers to its own.
        self.shared, self.index, self.name, self.scale = (factors,), index, name, scale

    def forward(self, output: Tensor, given: Tensor) -> Tensor:
        """Update what a layer made of ``given`` (..., I C): (..., O C)."""
        (factors,) = self.shared
        return (output + self.scale * factors(given, self.index, self.name)).to(output.dtype)
