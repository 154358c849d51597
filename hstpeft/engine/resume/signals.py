"""Signals that ask a training to stop: it finishes the step, saves itself and ends."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.util import Finalize
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader, get_worker_info

from hstpeft.errors import InterruptedRun
from hstpeft.registry import HOOKS

INTERRUPTED = 'interrupted.pth'
"""The one file that interruptions are saved to; the next regular checkpoint removes it."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Interruption:
    """Handle `SIGNALS` while entered: the first is kept for `InterruptHook`, the second ends at once.

    The previous handlers are restored on leaving. Outside the main thread, where python allows no
    handlers, nothing happens.

    Attributes:
        signum: The signal that was received; None if none.
        entered: Whether signals are handled now.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.entered = False
        self._pid = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> 'Interruption':
        self.entered = True
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
            Finalize(None, _kill_children, exitpriority=0)  # `atexit` misses forked processes
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            # None: a handler that python did not install, and cannot install again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before, self.entered = {}, False

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            self._receive_in_child(signum)
        elif self.signum is not None:
            _end_now(signum)
        else:
            self.signum = signum
            # Not `print`: the signal may have come in the middle of one.
            os.write(
                2, f'{name(signum)}: will save and stop; a second signal stops at once\n'.encode()
            )

    def _receive_in_child(self, signum: int) -> None:
        """Let a loader's worker survive the first signal: the step still needs its batches.

        A terminal or a job scheduler signals all processes of a job. To end the worker itself takes
        two signals; those that are left when the training exits are killed.
        """
        if get_worker_info() is None or self.signum is not None:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        self.signum = signum


def outlive_signals(loader: DataLoader) -> None:
    """Let the workers of a loader take `SIGNALS` as `Interruption` has it, in place."""
    loader.worker_init_fn = partial(_start_worker, loader.worker_init_fn)


def _start_worker(start: Callable[[int], None] | None, worker_id: int) -> None:
    """Put back the handler that a worker has from its parent: torch has put its own over it.

    That one ends the worker at once, unless the loader itself has sent the signal.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if callable(handler):
        signal.signal(signal.SIGTERM, handler)
    if start is not None:
        start(worker_id)


@HOOKS.register_module()
class InterruptHook(Hook):
    """End a training that was asked to stop, after the current step or validation.

    Raises:
        InterruptedRun: Names the checkpoint that was saved.
    """

    # After the CheckpointHook and whatever else belongs to a step.
    priority = 'LOWEST'

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Stop after a step; several processes agree on one, on GPUs every tenth."""
        wait = 10 if torch.cuda.is_available() and get_world_size() > 1 else 1
        if (runner.iter + 1) % wait == 0 and asked_to_stop(runner):
            stop(runner, runner.iter + 1)

    def after_val(self, runner: Runner) -> None:
        """Stop after a validation within a training."""
        if asked_to_stop(runner):
            stop(runner, runner.iter)


def asked_to_stop(runner: Runner) -> bool:
    """Whether any process of a run has received a signal; all processes must ask."""
    interruption = getattr(runner, 'interruption', None)  # a host's own runner has none
    if interruption is None or not interruption.entered:
        return False
    received = interruption.signum is not None
    if get_world_size() > 1:
        flag = torch.tensor([int(received)])
        all_reduce(flag, op='max')
        received = bool(flag.item())
    return received


def stop(runner: Runner, steps: int) -> NoReturn:
    """Save a training and end it.

    Args:
        runner: The run; all processes must call this.
        steps: Number of steps that are done.

    Raises:
        InterruptedRun: Names the checkpoint.
    """
    meta = dict(epoch=runner.epoch, iter=steps)
    runner.save_checkpoint(runner.work_dir, INTERRUPTED, meta=meta, by_epoch=False)
    barrier()  # when one ends, torchrun ends the others, and one of them may still be writing
    path = Path(runner.work_dir) / INTERRUPTED
    received = runner.interruption.signum
    why = 'another process was asked to stop' if received is None else name(received)
    raise InterruptedRun(f'{why}: saved after step {steps} as {path}; --resume goes on from there')


def name(signum: int) -> str:
    """Return a signal's name, e.g. ``SIGTERM``."""
    return signal.Signals(signum).name


def _end_now(signum: int) -> NoReturn:
    for child in multiprocessing.active_children():
        child.kill()
    os.write(2, f'{name(signum)} again: stopped without saving\n'.encode())
    os._exit(128 + signum)


def _kill_children() -> None:
    """End the daemons that are left at exit: python asks once, which a loader's worker outlives."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises for each that ends this way
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
