"""What a training checkpoint of ours holds beyond mmengine's, so that a resumed run is bit-exact."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from hstpeft.engine.distributed import unwrapped
from hstpeft.engine.resume.loops import ResumableEpochLoop
from hstpeft.engine.resume.settings import record
from hstpeft.engine.resume.signals import INTERRUPTED
from hstpeft.engine.resume.work_dir import NUMBERED, set_aside
from hstpeft.errors import UserError
from hstpeft.registry import HOOKS


@HOOKS.register_module()
class ResumeHook(Hook):
    """Keep in each checkpoint the settings, the place within the epoch and pending gradients.

    Gradients are pending between two optimiser steps of an accumulation.
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}
        self._loaded: Mapping[str, Tensor] = {}

    def before_save_on_all_ranks(self, runner: Runner) -> None:
        """Take the pending gradients; of several processes their mean.

        `CheckedRunner` calls this in all processes; ``before_save_checkpoint`` runs in one alone.
        """
        self.gradients = {
            name: parameter.grad.detach().clone()
            for name, parameter in unwrapped(runner.model).named_parameters()
            if parameter.grad is not None
        }
        if get_world_size() > 1:
            for gradient in self.gradients.values():
                all_reduce(gradient, op='mean')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the record to a training checkpoint."""
        if 'optimizer' not in checkpoint:
            return
        meta, loop = checkpoint['meta'], runner.train_loop
        meta['settings'] = record(runner.cfg)
        if isinstance(loop, ResumableEpochLoop) and meta['epoch'] == loop.epoch:
            meta['batches_done'] = meta['iter'] - loop.epoch_begin
        if self.gradients:
            checkpoint['gradients'] = {k: v.cpu() for k, v in self.gradients.items()}
        self.gradients = {}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep what `before_train` puts back."""
        self._loaded = checkpoint.get('gradients', {})

    def before_train(self, runner: Runner) -> None:
        """Set aside what is not of this run in the work folder, and put pending gradients back."""
        resumed = getattr(runner, 'resumed', False)
        if resumed is not False and runner.rank == 0:
            set_aside(runner.work_dir, resumed)
        if not self._loaded or not resumed:
            return
        parameters = dict(unwrapped(runner.model).named_parameters())
        for name, gradient in self._loaded.items():
            parameters[name].grad = gradient.to(parameters[name].device).clone()
        runner.logger.info('the pending gradients of the checkpoint are put back: none is lost')
        self._loaded = {}


def place_in_epoch(runner: Runner, meta: Mapping[str, Any]) -> None:
    """Let an interrupted epoch go on after the batches that it has had.

    Args:
        runner: At the iteration of the checkpoint.
        meta: Of the checkpoint.
    """
    if isinstance(runner.train_loop, ResumableEpochLoop):
        runner.train_loop.epoch_begin = runner.iter - meta.get('batches_done', 0)


def check_optimizer(runner: Runner, path: str) -> None:
    """Raise if the optimiser state that was loaded is that of another optimiser.

    torch takes it and fails in the first step. Where a checkpoint has a record of its settings they
    have been compared before.

    Raises:
        UserError: Options of the optimiser are missing in its state.
    """
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)  # several have none
    for group in optimizer.param_groups if optimizer is not None else ():
        missing = sorted(optimizer.defaults.keys() - group.keys())
        if missing:
            raise UserError(
                f'--resume {path}: its optimiser is not {type(optimizer).__name__}, which needs '
                f'{missing}: set optim_wrapper.optimizer back, or start with --load-from'
            )


def remove_interrupted(work_dir: str | Path, saved: str) -> None:
    """Remove the checkpoint of an interruption once a later one is saved.

    Args:
        work_dir: Of the run.
        saved: Name of the file that was just saved; only a regular checkpoint counts.
    """
    if NUMBERED.fullmatch(saved):
        Path(work_dir, INTERRUPTED).unlink(missing_ok=True)
