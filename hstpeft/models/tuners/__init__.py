"""What is learned on top of a trunk: one method a file."""

from hstpeft.models.tuners.arc import ARCTuner
from hstpeft.models.tuners.base import Tuner, check_needs
from hstpeft.models.tuners.frozen import FrozenTuner
from hstpeft.models.tuners.full import FullTuner
from hstpeft.models.tuners.hst import HSTTuner
from hstpeft.models.tuners.lora import LoRATuner
from hstpeft.models.tuners.memory_tokens import MemoryTokensTuner
from hstpeft.models.tuners.sa2vp import SA2VPTuner

__all__ = [
    'ARCTuner',
    'FrozenTuner',
    'FullTuner',
    'HSTTuner',
    'LoRATuner',
    'MemoryTokensTuner',
    'SA2VPTuner',
    'Tuner',
    'check_needs',
]
