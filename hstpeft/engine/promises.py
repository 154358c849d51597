"""What holds in every run of ours, whatever its config says: its hooks, and what it works within."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from mmengine.hooks import Hook
from mmengine.runner import Runner

from hstpeft.engine.checks.loaders import batches_explained
from hstpeft.engine.faults.lost import lost_process_explained
from hstpeft.engine.faults.memory import memory_explained
from hstpeft.engine.faults.unused import unused_parameters_explained
from hstpeft.engine.safe_io import safe_io
from hstpeft.engine.saving import SealHook, atomic_writes, layout_remembered, make_safe

PROMISED_HOOKS = (
    'hstpeft.CheckpointGuardHook',
    'hstpeft.RNGStateHook',
    'hstpeft.ParameterTableHook',
    'hstpeft.DeltaHook',
    'hstpeft.DataCheckHook',
    'hstpeft.FiniteNumbersHook',
    'hstpeft.SkippedStepsHook',
    'hstpeft.UnusedParametersHook',
    'hstpeft.BufferSyncHook',
    'hstpeft.ResumeHook',
    'hstpeft.InterruptHook',
    'hstpeft.SealHook',
)
"""Registered in every run of ours, even where a config replaces its ``custom_hooks``.

`configs/_base_/default_runtime.py` lists them too, for those who train our configs with a host's own
tools.
"""


def with_promised(hooks: Sequence[Hook | dict]) -> list[Hook | dict]:
    """Return hooks with the missing ones of `PROMISED_HOOKS` in front, and the seal at the end.

    Args:
        hooks: ``custom_hooks`` of a config.
    """
    named = {hook['type'] if isinstance(hook, dict) else type(hook) for hook in hooks}
    kinds = {kind if isinstance(kind, str) else f'hstpeft.{kind.__name__}' for kind in named}
    hooks = [*({'type': kind} for kind in PROMISED_HOOKS if kind not in kinds), *hooks]
    # Of hooks with the same priority mmengine calls first what it was given first.
    return sorted(map(make_safe, hooks), key=_is_seal)


def _is_seal(hook: Hook | dict) -> bool:
    kind = hook['type'] if isinstance(hook, dict) else type(hook)
    return kind in (SealHook, 'hstpeft.SealHook')


@contextmanager
def at_work(runner: Runner) -> Iterator[None]:
    """Enter all that must hold while a runner trains, validates or tests.

    Args:
        runner: Of any mode.
    """
    with ExitStack() as stack:
        stack.enter_context(safe_io())
        stack.enter_context(atomic_writes())
        stack.enter_context(layout_remembered())
        stack.enter_context(batches_explained())
        stack.enter_context(memory_explained(runner))
        stack.enter_context(lost_process_explained())
        stack.enter_context(unused_parameters_explained(runner))
        yield
