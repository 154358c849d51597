"""The training that a soak interrupts, and what interrupts it from within, at an exact point.

Each runs in a process of its own, forked from a server that has everything imported.
"""

import contextlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.hooks import Hook
from yapf.yapflib import yapf_api

from hstpeft.engine.runner import CheckedRunner
from tools import train

CALLS = ('fsync', 'replace', 'rename', 'remove', 'unlink')
# What a training imports when it first needs it, which takes longer than the training itself.
IMPORTED = (
    *('tools.soak_parts.victim', 'tools.soak_parts.corruptions', 'torch.utils.tensorboard'),
    *('hstpeft.models', 'hstpeft.datasets', 'mmpretrain.models', 'mmpretrain.datasets'),
    *('mmpretrain.engine', 'mmpretrain.evaluation', 'mmpretrain.visualization'),
)
SIGNALS = ('SIGTERM', 'SIGINT', 'SIGUSR1')


class Trigger(NamedTuple):
    """When a training is interrupted, and how.

    Attributes:
        kind: ``never``; ``time``: after seconds, from outside; ``step``: after a training step;
            ``write``: while the files of a save are written; ``call``: at a call of `CALLS` (so
            between the write, its fsync, the rename and the removal of an older file);
            ``next write``: in whatever is written after such a call.
        signal: Name of what is sent; a write ends with SIGXFSZ, which nobody handles either.
        second: Name of a signal that follows while the first is being obeyed, or empty.
        at: Seconds, or number of the step, of the save or of the call.
        size: Bytes of the file that a write still makes.
        after: Whether a ``call`` is interrupted after it and not before.
    """

    kind: str = 'never'
    signal: str = 'SIGKILL'
    second: str = ''
    at: float = 0
    size: int = 0
    after: bool = False


def start(folder: Path, arguments: list[str], trigger: Trigger) -> BaseProcess:
    """Start a training.

    Args:
        folder: For its output (``log``) and its trace (``trace``), to which both are appended.
        arguments: Of tools/train.py.
        trigger: What interrupts it.
    """
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(list(IMPORTED))
    process = context.Process(target=_run, args=(folder, arguments, trigger))
    process.start()
    return process


def read_trace(folder: Path) -> list[dict[str, Any]]:
    """Return what trainings have noted: ``train``, each ``step``, ``save``, ``call``, and ``fired``."""
    path = folder / 'trace'
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _run(folder: Path, arguments: list[str], trigger: Trigger) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a signal now is one before there was a process
    with open(folder / 'log', 'a') as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    torch.set_num_threads(1)
    # What a process has that a shell has started, whatever this one inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ('SIGTERM', 'SIGUSR1'):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The layout of the config in the log, which takes half of so short a run.
    yapf_api.FormatCode = lambda text, **style: (text, True)
    _arm(folder, trigger)
    try:
        train.main(arguments)
    except KeyboardInterrupt:  # before the training; Python exits like this too
        sys.exit(128 + signal.SIGINT)


def _arm(folder: Path, trigger: Trigger) -> None:
    """Make the trigger a part of the next training of this process."""
    note = _Notes(folder / 'trace')
    whole = CheckedRunner.train
    first_save = []

    def begin(runner: CheckedRunner) -> torch.nn.Module:
        note('train')
        runner.register_hook(_Watch(note, trigger), priority='LOWEST')
        _watch_calls(note, trigger, first_save)
        return whole(runner)

    saving = CheckedRunner.save_checkpoint

    def save(runner: CheckedRunner, *args: Any, **kwargs: Any) -> None:
        first_save.append(True)
        saving(runner, *args, **kwargs)
        note('save')

    CheckedRunner.train, CheckedRunner.save_checkpoint = begin, save


class _Notes:
    """Lines of a file that outlive the process."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def __call__(self, what: str, **values: Any) -> None:
        os.write(self.file, (json.dumps(dict(what=what, **values)) + '\n').encode())


class _Watch(Hook):
    """Notes each step and save, and interrupts after a step or within a write."""

    def __init__(self, note: _Notes, trigger: Trigger) -> None:
        self.note, self.trigger, self.saves, self.fired = note, trigger, 0, False

    def after_train_iter(self, runner: Any, batch_idx: int, **batch: Any) -> None:
        """Send the signal of a ``step``."""
        self.note('step', iter=runner.iter)
        if self.trigger.kind == 'step' and runner.iter == self.trigger.at:
            self.fired = True
            _send(self.note, self.trigger.signal, iter=runner.iter)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Limit the size of files for a ``write``; send the second signal of a ``step``."""
        self.saves += 1
        if self.trigger.kind == 'write' and self.saves == self.trigger.at:
            _limit_files(self.note, self.trigger.size)
        if self.fired and self.trigger.second:
            _send(self.note, self.trigger.second, iter=runner.iter)


def _send(note: _Notes, name: str, **values: Any) -> None:
    note('fired', signal=name, **values)
    os.kill(os.getpid(), getattr(signal, name))


def _limit_files(note: _Notes, size: int) -> None:
    """Let the kernel write up to a size and then kill: whoever writes, and by whatever call."""
    note('fired', signal='SIGXFSZ')
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _watch_calls(note: _Notes, trigger: Trigger, first_save: list[bool]) -> None:
    """Count the calls that finish a save, and interrupt at one of them."""
    count, own = 0, os.getpid()

    def watched(name: str, function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            if os.getpid() != own or not first_save:  # a loader's worker; or the logs
                return function(*args, **kwargs)
            count += 1
            kind = trigger.kind if count == trigger.at else ''
            if kind == 'call' and not trigger.after:
                _send(note, trigger.signal, call=name)
            result = function(*args, **kwargs)
            note('call', name=name)
            if kind == 'call' and trigger.after:
                _send(note, trigger.signal, call=name)
            if kind == 'next write':
                _limit_files(note, trigger.size)
            return result

        return call

    for name in CALLS:
        setattr(os, name, watched(name, getattr(os, name)))


def wait(process: BaseProcess, trigger: Trigger, seconds: float) -> int | None:
    """Wait for a training, and send the signals of a ``time``.

    Returns:
        Its exit status, negative for a signal that killed it; None if it hangs: then it is killed.
    """
    if trigger.kind == 'time':
        process.join(trigger.at)
        for name in filter(None, (trigger.signal, trigger.second)):
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                if process.is_alive():
                    os.kill(process.pid, getattr(signal, name))
                    time.sleep(0.02)
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode
