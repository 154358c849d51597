"""All that happens around a model while it trains; importing this registers its parts."""

from hstpeft.engine.batches import ResumableBatches
from hstpeft.engine.buffers import BufferSyncHook, sync_buffers
from hstpeft.engine.checkpoint import CheckpointGuardHook, DeltaHook, latest_checkpoint
from hstpeft.engine.checks.data_hook import DataCheckHook
from hstpeft.engine.checks.model import check_model
from hstpeft.engine.distributed import (
    DeviceAwareDDP,
    end_process_group,
    init_process_group,
    restarted,
)
from hstpeft.engine.finite import FiniteNumbersHook
from hstpeft.engine.loops import ResumableEpochLoop, ResumableIterLoop
from hstpeft.engine.optim import BFloat16OptimWrapper, DeltaOptimWrapperConstructor
from hstpeft.engine.report import ParameterTableHook
from hstpeft.engine.resume import ResumeHook
from hstpeft.engine.rng import RNGStateHook, seed_worker
from hstpeft.engine.saving import SafeCheckpointHook, SealHook
from hstpeft.engine.signals import InterruptHook
from hstpeft.engine.skipped import SkippedStepsHook
from hstpeft.engine.unused import UnusedParametersHook

__all__ = [
    'BFloat16OptimWrapper',
    'BufferSyncHook',
    'CheckpointGuardHook',
    'DataCheckHook',
    'DeltaHook',
    'DeltaOptimWrapperConstructor',
    'DeviceAwareDDP',
    'FiniteNumbersHook',
    'InterruptHook',
    'ParameterTableHook',
    'RNGStateHook',
    'ResumableBatches',
    'ResumableEpochLoop',
    'ResumableIterLoop',
    'ResumeHook',
    'SafeCheckpointHook',
    'SealHook',
    'SkippedStepsHook',
    'UnusedParametersHook',
    'check_model',
    'end_process_group',
    'init_process_group',
    'latest_checkpoint',
    'restarted',
    'seed_worker',
    'sync_buffers',
]
