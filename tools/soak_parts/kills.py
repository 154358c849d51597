"""Trainings that are interrupted anywhere and resumed must end as the undisturbed one.

A trial is a variant of the toy training and up to three interruptions, each followed by
``--resume``. Which, the seed decides; interruptions by the clock strike where the machine then is.
"""

import random
import shutil
import time
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from hstpeft.errors import UserError
from tools.soak_parts import Advance, checks
from tools.soak_parts.toy import Variant, write_config, write_toy
from tools.soak_parts.victim import SIGNALS, Trigger, read_trace, start, wait

VARIANTS = tuple(Variant(*values) for values in product((True, False), (1, 2), (0, 2), (1, 2)))
KINDS = ('time', 'step', 'write', 'call', 'next write')
HANG_SECONDS = 120
MAX_KILLS = 3


class Reference(NamedTuple):
    """An undisturbed training: its folder, its seconds, and how often it wrote."""

    work_dir: Path
    seconds: float
    saves: int
    calls: int
    checkpoint_bytes: int
    delta_bytes: int


def run(count: int, seed: int, folder: Path, advance: Advance) -> dict[str, Any]:
    """Run trials.

    Args:
        count: Number of trials.
        seed: Decides their variants and interruptions.
        folder: Empty or new; the folders of failed trials are left in it.
        advance: Called after each trial, with its story if it failed.

    Returns:
        ``count``, ``failures`` (each with trial, variant, interruptions, error and the log's end),
        and how many interruptions there were of each kind (``interruptions``) and how they ended
        (``statuses``).
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_toy(folder)
    variants = list(VARIANTS)
    random.Random(f'variants {seed}').shuffle(variants)
    references: dict[Variant, Reference] = {}
    failures, interruptions, statuses = [], Counter(), Counter()
    for index in range(count):
        variant = variants[index % len(variants)]
        if variant not in references:
            references[variant] = undisturbed(folder, variant)
        trial = Trial(folder / f'trial_{index}', write_config(folder, variant), variant)
        error = trial.run(random.Random(f'trial {seed} {index}'), references[variant])
        interruptions.update(trigger.kind for trigger in trial.triggers if trigger.kind != 'never')
        statuses.update(map(str, trial.statuses))
        failure = dict(trial=index, **trial.story(), error=error) if error else None
        if failure:
            failures.append(failure)
        else:
            shutil.rmtree(trial.folder)
        advance(failure)
    return dict(
        count=count,
        failures=failures,
        interruptions=dict(interruptions),
        statuses=dict(statuses),
    )


def undisturbed(folder: Path, variant: Variant) -> Reference:
    """Run a variant to its end.

    Raises:
        UserError: It fails.
    """
    home = folder / f'undisturbed_{variant.name}'
    trial = Trial(home, write_config(folder, variant), variant)
    begin = time.perf_counter()
    status = trial.attempt(Trigger())
    if status != 0:
        raise UserError(f'the undisturbed training {variant.name} fails: {trial.log_end()}')
    trace = Counter(note['what'] for note in read_trace(home))
    newest = checks.newest(home / 'work')
    return Reference(
        home / 'work',
        time.perf_counter() - begin,
        trace['save'],
        trace['call'],
        newest.stat().st_size,
        (home / 'work/delta.pth').stat().st_size,
    )


def draw(rng: random.Random, reference: Reference, steps: int, done: int) -> Trigger:
    """Draw an interruption of a training that goes on after its first ``done`` of all steps."""
    kind, part, bytes_part = rng.choice(KINDS), rng.random(), rng.random()
    name = rng.choice(('SIGKILL', 'SIGKILL', *SIGNALS))
    second = rng.choice(('', *SIGNALS)) if name != 'SIGKILL' else ''
    after, left = rng.random() < 0.5, (steps - done) / steps
    if kind == 'time':
        return Trigger(kind, name, second, at=part * reference.seconds)
    if kind == 'step':
        return Trigger(kind, name, second, at=done + int(part * (steps - done)))
    if kind == 'write':
        # The delta is written like the checkpoints, after the last one.
        at = 1 + int(part * (reference.saves * left + 1))
        last = at > reference.saves * left
        size = reference.delta_bytes if last else reference.checkpoint_bytes
        return Trigger(kind, at=at, size=int(bytes_part * size))
    at = 1 + int(part * reference.calls * left)
    if kind == 'call':
        return Trigger(kind, name, at=at, after=after)
    return Trigger(kind, at=at, size=int(bytes_part * 30))


class Trial:
    """One training, from its start through its interruptions to its end.

    Args:
        folder: Of its work folder, its log and its trace.
        config: What is trained.
        variant: What the config says.
    """

    def __init__(self, folder: Path, config: Path, variant: Variant) -> None:
        self.folder, self.config, self.variant = folder, config, variant
        self.work_dir = folder / 'work'
        self.triggers: list[Trigger] = []
        self.statuses: list[int | None] = []
        folder.mkdir(parents=True)

    def run(self, rng: random.Random, reference: Reference) -> str:
        """Interrupt and resume until the end; returns what was wrong, or nothing."""
        kills, saved = rng.randint(1, MAX_KILLS), False
        for number in range(kills + 1):
            done = checks.steps_done(self.work_dir)
            trigger = Trigger()
            if number < kills and done < self.variant.steps:
                trigger = draw(rng, reference, self.variant.steps, done)
            before = len(read_trace(self.folder))
            status = self.attempt(trigger)
            trace = read_trace(self.folder)[before:]
            saved = saved or any(note['what'] == 'save' for note in trace)
            error = checks.status_error(status, trigger, trace, self.variant.steps)
            error = error or checks.folder_error(self.work_dir, status, trace, saved)
            if error:
                return f'after {trigger.kind} of attempt {number + 1}: {error}'
            if status == 0:
                break
        return checks.end_error(self.work_dir, reference.work_dir)

    def attempt(self, trigger: Trigger) -> int | None:
        """Train, going on where the attempt before stopped; returns the exit status."""
        number = len(self.statuses)
        arguments = [str(self.config), '--work-dir', str(self.work_dir)]
        process = start(self.folder, [*arguments, *(['--resume'] if number else [])], trigger)
        status = wait(process, trigger, HANG_SECONDS)
        self.triggers.append(trigger)
        self.statuses.append(status)
        return status

    def log_end(self) -> str:
        """Return the last lines of its output."""
        path = self.folder / 'log'
        return (
            '\n'.join(path.read_text(errors='replace').splitlines()[-6:]) if path.exists() else ''
        )

    def story(self) -> dict[str, Any]:
        """Return what has happened, for a report."""
        return dict(
            variant=self.variant.name,
            interruptions=[trigger._asdict() for trigger in self.triggers],
            statuses=self.statuses,
            log_end=self.log_end(),
        )
