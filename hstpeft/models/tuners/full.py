"""Full training: every parameter of the trunk is trained (fine-tuning, or from scratch)."""

from torch import nn

from hstpeft.models.trunks import Trunk
from hstpeft.models.tuners.base import Tuner
from hstpeft.models.tuners.frozen import FrozenTuner
from hstpeft.registry import MODELS


@MODELS.register_module()
class FullTuner(Tuner):
    """Trains the whole trunk; its delta is as large as the trunk."""

    def attach(self, trunk: Trunk) -> None:
        """There is nothing to build."""

    def trunk_parameters(self, trunk: Trunk) -> list[nn.Parameter]:
        """Return everything."""
        return list(trunk.parameters())

    def merge(self, trunk: Trunk) -> Tuner:
        """The trained trunk is the merged model already."""
        return FrozenTuner()
