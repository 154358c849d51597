"""The baseline without a tuner: nothing of the trunk is trained (linear probe)."""

from hstpeft.models.trunks import Trunk
from hstpeft.models.tuners.base import Tuner
from hstpeft.registry import MODELS


@MODELS.register_module()
class FrozenTuner(Tuner):
    """Leaves the trunk as it is; with a linear head this is the linear probe."""

    def attach(self, trunk: Trunk) -> None:
        """There is nothing to build."""

    def merge(self, trunk: Trunk) -> Tuner:
        """The trunk is the merged model already."""
        return self
