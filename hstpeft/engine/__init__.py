"""All that happens around a model while it trains; importing this registers its parts."""

from hstpeft.engine.checkpoint import CheckpointGuardHook, DeltaHook, latest_checkpoint
from hstpeft.engine.checks.data_hook import DataCheckHook
from hstpeft.engine.checks.model import check_model
from hstpeft.engine.distributed import (
    DeviceAwareDDP,
    end_process_group,
    init_process_group,
    restarted,
)
from hstpeft.engine.faults.buffers import BufferSyncHook, sync_buffers
from hstpeft.engine.faults.finite import FiniteNumbersHook
from hstpeft.engine.faults.skipped import SkippedStepsHook
from hstpeft.engine.faults.unused import UnusedParametersHook
from hstpeft.engine.optim import BFloat16OptimWrapper, DeltaOptimWrapperConstructor
from hstpeft.engine.report import ParameterTableHook
from hstpeft.engine.resume.batches import ResumableBatches
from hstpeft.engine.resume.loops import ResumableEpochLoop, ResumableIterLoop
from hstpeft.engine.resume.rng import RNGStateHook, seed_worker
from hstpeft.engine.resume.signals import InterruptHook
from hstpeft.engine.resume.state import ResumeHook
from hstpeft.engine.saving import SafeCheckpointHook, SealHook

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
