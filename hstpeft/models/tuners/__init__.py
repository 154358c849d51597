"""What is learned on top of a trunk: one method a file."""

from hstpeft.models.tuners.base import Tuner
from hstpeft.models.tuners.frozen import FrozenTuner
from hstpeft.models.tuners.hst import HSTTuner

__all__ = ['FrozenTuner', 'HSTTuner', 'Tuner']
