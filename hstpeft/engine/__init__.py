"""Hooks, optimiser and distributed parts; importing this registers them."""

from hstpeft.engine.checkpoint import CheckpointGuardHook, DeltaHook, latest_checkpoint
from hstpeft.engine.checks.channels import check_channels
from hstpeft.engine.checks.datasets import DataCheckHook
from hstpeft.engine.distributed import DeviceAwareDDP, end_process_group, init_process_group
from hstpeft.engine.optim import BFloat16OptimWrapper, DeltaOptimWrapperConstructor
from hstpeft.engine.report import ParameterTableHook
from hstpeft.engine.rng import RNGStateHook, seed_worker

__all__ = [
    'BFloat16OptimWrapper',
    'CheckpointGuardHook',
    'DataCheckHook',
    'DeltaHook',
    'DeltaOptimWrapperConstructor',
    'DeviceAwareDDP',
    'ParameterTableHook',
    'RNGStateHook',
    'check_channels',
    'end_process_group',
    'init_process_group',
    'latest_checkpoint',
    'seed_worker',
]
