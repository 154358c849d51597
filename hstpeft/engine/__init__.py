"""Hooks, optimiser and distributed parts; importing this registers them."""

from hstpeft.engine.checkpoint import CheckpointGuardHook, DeltaHook, latest_checkpoint
from hstpeft.engine.checks.data_hook import DataCheckHook
from hstpeft.engine.checks.model import check_model
from hstpeft.engine.distributed import DeviceAwareDDP, end_process_group, init_process_group
from hstpeft.engine.optim import BFloat16OptimWrapper, DeltaOptimWrapperConstructor
from hstpeft.engine.report import ParameterTableHook
from hstpeft.engine.rng import RNGStateHook, seed_worker
from hstpeft.engine.saving import SafeCheckpointHook, SealHook

__all__ = [
    'BFloat16OptimWrapper',
    'CheckpointGuardHook',
    'DataCheckHook',
    'DeltaHook',
    'DeltaOptimWrapperConstructor',
    'DeviceAwareDDP',
    'ParameterTableHook',
    'RNGStateHook',
    'SafeCheckpointHook',
    'SealHook',
    'check_model',
    'end_process_group',
    'init_process_group',
    'latest_checkpoint',
    'seed_worker',
]
