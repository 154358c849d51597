"""Full training: every parameter of the trunk is trained (fine-tuning, or from scratch)."""

from torch import nn

from hstpeft.models.trunks import Trunk
from hstpeft.models.tuners.base import Tuner, check_float32
from hstpeft.models.tuners.frozen import FrozenTuner
from hstpeft.registry import MODELS


@MODELS.register_module()
class FullTuner(Tuner):
    """Trains the whole trunk; its delta is as large as the trunk.

    Trainable values: all of it; 85,798,656 for a ViT-B/16.

    Raises:
        UserError: The trunk is to be held in another dtype than float32.
    """

    def attach(self, trunk: Trunk) -> None:
        """Build nothing; refuse a dtype that would silently have no effect."""
        check_float32('FullTuner', trunk, 'it is for frozen parameters, and there are none')

    def trunk_parameters(self, trunk: Trunk) -> list[nn.Parameter]:
        """Return everything that runs."""
        return trunk.running_parameters()

    def merge(self, trunk: Trunk) -> Tuner:
        """The trained trunk is the merged model already."""
        return FrozenTuner()
