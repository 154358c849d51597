"""Random wrong configs of three tasks: each must end in one line before anything is trained.

Every config is run by tools/train.py in a process forked from this one, up to the end of the first
step.
"""

import contextlib
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hstpeft.engine.checks.values import problems_of
from hstpeft.engine.config import load_config
from hstpeft.engine.runner import CheckedRunner
from tools.soak_parts import Advance
from tools.soak_parts.config_mistakes import REMOVED, Mistake, mistakes
from tools.soak_parts.config_tasks import write_leaves
from tools.train import main

_TRAINED, _SECONDS = 99, 60


class Trial(NamedTuple):
    """A mistake with what came of it.

    Attributes:
        task: Key of `config_tasks.LEAVES`.
        mistake: What is wrong.
        by: ``file`` or ``option``.
        outcome: ``refused``, ``accepted`` or ``traceback``.
        said: Last line of stderr.
        in_step: Whether it was refused within the first step.
    """

    task: str
    mistake: Mistake
    by: str
    outcome: str
    said: str
    in_step: bool

    def described(self) -> str:
        """Return a line for a summary."""
        value = ' '.join(self.mistake.raw) or f'{self.mistake.key}={_written(self.mistake.value)}'
        return f'{self.task}, {self.mistake.kind} by {self.by}: {value}: {self.said}'[:600]


def run(count: int, seed: int, folder: Path, advance: Advance) -> dict[str, Any]:
    """Try random wrong configs.

    Args:
        count: Number of configs.
        seed: Decides what is wrong in them.
        folder: Empty or new; for their files while they run.
        advance: Called after each trial, with its story if it failed.

    Returns:
        ``count``, ``failures`` (each with error and config), how many were ``refused`` and how many of
        these in the first step, which of the lines do not name the key, and the ``kinds`` of mistakes.
    """
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    refused, failures, kinds = [], [], Counter()
    with tempfile.TemporaryDirectory(dir=folder) as home:
        for trial in _trials(Path(home), count, random.Random(seed)):
            kinds[trial.mistake.kind] += 1
            failure = None
            if trial.outcome == 'refused':
                refused.append(trial)
            else:
                failure = dict(error=trial.outcome, config=trial.described())
                failures.append(failure)
            advance(failure)
    return dict(
        count=count,
        failures=failures,
        refused=len(refused),
        refused_in_first_step=sum(trial.in_step for trial in refused),
        key_not_named=[trial.described() for trial in refused if not _is_named(trial)],
        kinds=kinds,
    )


def _trials(folder: Path, count: int, rng: random.Random) -> Iterator[Trial]:
    leaves = write_leaves(folder)
    streams, configs = {}, {}
    for task, leaf in leaves.items():
        configs[task] = load_config(leaf).to_dict()
        # Imports the hosts here, once, and not in every process.
        assert not [*problems_of(configs[task])], f'the sound config of {task} is refused'
        said = _start(folder, [str(leaf)])
        assert said[0] == 'accepted', f'the sound config of {task} is refused: {said}'
        streams[task] = mistakes(configs[task], rng)
    for index in range(count):
        task = [*leaves][index % len(leaves)]
        mistake = next(streams[task])
        by = rng.choice(['file', 'option'])
        if mistake.raw or '.0' in mistake.key or any(p.isdigit() for p in mistake.key.split('.')):
            by = 'option'
        elif mistake.value is REMOVED:
            by = 'file'
        if by == 'file':
            child = folder / f'child_{index}.py'
            child.write_text(_child(leaves[task], mistake, configs[task]))
            arguments = [str(child)]
        else:
            typed = mistake.raw or (f'{mistake.key}={_typed(mistake.value)}',)
            arguments = [str(leaves[task]), '--cfg-options', *typed]
        yield Trial(task, mistake, by, *_start(folder, arguments))


def _child(leaf: Path, mistake: Mistake, config: dict) -> str:
    """Write a config that inherits a leaf and sets one key."""
    first, *rest = mistake.key.split('.')
    value, parent = mistake.value, config
    if value is REMOVED:  # replace the mapping that holds it
        *rest, last = rest
        for name in (first, *rest):
            parent = parent[name]
        value = {**{k: v for k, v in parent.items() if k != last}, '_delete_': True}
    for name in reversed(rest):
        value = {name: value}
    return f'_base_ = {str(leaf)!r}\n{first} = {_written(value)}\n'


def _typed(value: Any) -> str:
    """Write a value out as on a command line, where NaN is a word."""
    return str(value) if isinstance(value, float) else _written(value)


def _written(value: Any) -> str:
    """Write a value out as Python, NaN and infinity too."""
    if value is REMOVED:
        return 'nothing'
    if isinstance(value, dict):
        return '{' + ', '.join(f'{k!r}: {_written(v)}' for k, v in value.items()) + '}'
    if isinstance(value, (list, tuple)):
        return '[' + ', '.join(map(_written, value)) + ']'
    text = repr(value)
    return f"float('{text}')" if text in ('nan', 'inf', '-inf') else text


def _start(folder: Path, arguments: list[str]) -> tuple[str, str, bool]:
    """Run tools/train.py on a config in a fork; returns the outcome, its line, and if in a step."""
    log, step = folder / 'log.txt', folder / 'step'
    step.unlink(missing_ok=True)
    process = os.fork()
    if process == 0:
        with contextlib.suppress(BaseException):
            _run_forked(arguments, log, step, folder)
        os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    lines = [line for line in log.read_text(errors='replace').splitlines() if line.strip()]
    said = next(
        reversed([line for line in lines if ': error: ' in line]), lines[-1] if lines else ''
    )
    if status in (0, _TRAINED):
        return 'accepted', '', False
    errors = sum(': error: ' in line and line.startswith('train.py') for line in lines)
    is_refused = status in (1, 2) and not any('Traceback (most' in line for line in lines)
    return ('refused' if is_refused and errors == 1 else 'traceback', said, step.exists())


def _run_forked(arguments: list[str], log: Path, step: Path, folder: Path) -> None:
    with open(log, 'w') as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    sys.argv[0] = 'train.py'
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_SECONDS)
    plain = CheckedRunner.call_hook

    def call_hook(self: CheckedRunner, fn_name: str, **kwargs: Any) -> None:
        if fn_name == 'before_train_iter':
            step.touch()
        plain(self, fn_name, **kwargs)
        if fn_name == 'after_train_iter':
            os._exit(_TRAINED)

    CheckedRunner.call_hook = call_hook
    code = 0
    try:
        main([*arguments, '--work-dir', str(folder / f'work_{os.getpid()}')])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _is_named(trial: Trial) -> bool:
    """Whether a line names the key that is wrong, or one that it is part of."""
    names = [name for name in trial.mistake.key.split('.') if not name.isdigit()]
    return any(name in trial.said for name in names[-2:])
