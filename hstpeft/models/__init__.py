"""Models of hstpeft; importing this registers them.

Heads and classifiers, which need mmpretrain, are imported by themselves (`hstpeft.registry`).
"""

from hstpeft.models.backbones import TunedBackbone
from hstpeft.models.necks import PooledNorm
from hstpeft.models.trunks import HVTTrunk, SwinTrunk, Trunk, ViTTrunk
from hstpeft.models.tuners import (
    ARCTuner,
    FrozenTuner,
    FullTuner,
    HSTTuner,
    MemoryTokensTuner,
    SA2VPTuner,
    Tuner,
)

__all__ = [
    'ARCTuner',
    'FrozenTuner',
    'FullTuner',
    'HSTTuner',
    'HVTTrunk',
    'MemoryTokensTuner',
    'PooledNorm',
    'SA2VPTuner',
    'SwinTrunk',
    'Trunk',
    'TunedBackbone',
    'Tuner',
    'ViTTrunk',
]
