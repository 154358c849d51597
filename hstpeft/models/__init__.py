"""Models of hstpeft; importing this registers them."""

from hstpeft.models.backbones import TunedBackbone
from hstpeft.models.necks import PooledNorm
from hstpeft.models.trunks import Trunk, ViTTrunk
from hstpeft.models.tuners import FrozenTuner, HSTTuner, Tuner

__all__ = [
    'FrozenTuner',
    'HSTTuner',
    'PooledNorm',
    'Trunk',
    'TunedBackbone',
    'Tuner',
    'ViTTrunk',
]
