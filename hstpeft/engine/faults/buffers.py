"""Buffers that each process trains by itself, made the same before they are used or saved."""

from collections.abc import Iterator

import torch
from mmengine.dist import all_reduce, broadcast, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from hstpeft.engine.distributed import unwrapped
from hstpeft.registry import HOOKS

_STATISTICS = ('running_mean', 'running_var')


@HOOKS.register_module()
class BufferSyncHook(Hook):
    """Give all processes the same buffers before each validation, checkpoint and delta.

    A BatchNorm that is not synchronised has different statistics in each process: the validation
    would mix them, and the delta would hold those of the first process alone.
    """

    # Before the DeltaHook, which is LOWEST.
    priority = 'LOW'

    def before_val(self, runner: Runner) -> None:
        """Sync before EMAHook swaps in the average."""
        sync_buffers(runner)

    def before_save_on_all_ranks(self, runner: Runner) -> None:
        """Sync before a checkpoint, which `CheckedRunner` announces to every process."""
        sync_buffers(runner)

    def after_train(self, runner: Runner) -> None:
        """Sync before the delta."""
        sync_buffers(runner)


def sync_buffers(runner: Runner) -> None:
    """Average running statistics over the processes, and take all other buffers from the first.

    All processes must call it at the same point. Only what a checkpoint holds is touched, in the model
    and in averages of it (EMA). Buffers that are equal already keep their bits.

    Args:
        runner: Of any mode; with one process nothing happens.
    """
    if get_world_size() == 1:
        return
    for model in _models(runner):
        kept = model.state_dict().keys()
        named = [(name, buffer) for name, buffer in model.named_buffers() if name in kept]
        statistics = [b for name, b in named if name.rpartition('.')[2] in _STATISTICS]
        for name, buffer in named:
            if name.rpartition('.')[2] not in _STATISTICS:
                broadcast(buffer)
        if statistics:
            # In float64 the mean of equal numbers is that number, however many there are.
            flat = torch.cat([buffer.double().flatten() for buffer in statistics])
            all_reduce(flat, op='mean')
            for buffer, mean in zip(
                statistics, flat.split([b.numel() for b in statistics]), strict=True
            ):
                buffer.copy_(mean.view_as(buffer))


def _models(runner: Runner) -> Iterator[nn.Module]:
    yield unwrapped(runner.model)
    for hook in runner.hooks:
        if hasattr(hook, 'ema_model'):  # of mmengine's EMAHook and those made after it
            yield hook.ema_model.module
