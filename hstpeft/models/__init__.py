"""Models of hstpeft; importing this registers them."""

from hstpeft.models.backbones import TunedBackbone
from hstpeft.models.classifiers import HMAClassifier
from hstpeft.models.heads import HMAClsHead, TwoBranchClsHead
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
    'HMAClassifier',
    'HMAClsHead',
    'HSTTuner',
    'HVTTrunk',
    'MemoryTokensTuner',
    'PooledNorm',
    'SA2VPTuner',
    'SwinTrunk',
    'Trunk',
    'TunedBackbone',
    'TwoBranchClsHead',
    'Tuner',
    'ViTTrunk',
]
