"""Models of hstpeft; importing this registers them.

Heads and classifiers, which need mmpretrain, are imported by themselves (`hstpeft.registry`).
"""

from hstpeft.models.backbones import TunedBackbone
from hstpeft.models.necks import PooledNorm, SimpleFeaturePyramid
from hstpeft.models.trunks import HVTTrunk, SwinTrunk, Trunk, ViTTrunk
from hstpeft.models.tuners import (
    ARCTuner,
    FrozenTuner,
    FullTuner,
    HSTTuner,
    LoRATuner,
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
    'LoRATuner',
    'MemoryTokensTuner',
    'PooledNorm',
    'SA2VPTuner',
    'SimpleFeaturePyramid',
    'SwinTrunk',
    'Trunk',
    'TunedBackbone',
    'Tuner',
    'ViTTrunk',
]
