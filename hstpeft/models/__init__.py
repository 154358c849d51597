"""Models of hstpeft; importing this registers them."""

from hstpeft.models.backbones import TunedBackbone
from hstpeft.models.classifiers import HMAClassifier
from hstpeft.models.heads import HMAClsHead
from hstpeft.models.necks import PooledNorm
from hstpeft.models.trunks import HVTTrunk, SwinTrunk, Trunk, ViTTrunk
from hstpeft.models.tuners import (
    ARCTuner,
    FrozenTuner,
    FullTuner,
    HSTTuner,
    MemoryTokensTuner,
    Tuner,
)

__all__ = [
    'ARCTuner',
    'FrozenTuner',
    'FullTuner',
    'HMAClassifier',
    'HMAClsHead',
    'HSTTuner',
    'HVTTrunk',
    'MemoryTokensTuner',
    'PooledNorm',
    'SwinTrunk',
    'Trunk',
    'TunedBackbone',
    'Tuner',
    'ViTTrunk',
]
