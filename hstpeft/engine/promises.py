"""What every run of ours promises, whatever its config says: hooks, and what holds while it works."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from mmengine.hooks import Hook
from mmengine.runner import Runner

from hstpeft.engine.lost import lost_process_named
from hstpeft.engine.memory import memory_explained
from hstpeft.engine.unused import unused_parameters_named

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
)
"""Registered in every run of ours, even where a config replaces its ``custom_hooks``.

`default_runtime.py` lists them too, for those who train our configs with a host's own tools.
"""


def with_promised(hooks: Sequence[Hook | dict]) -> list[Hook | dict]:
    """Return hooks with those of `PROMISED_HOOKS` in front that are not among them."""
    named = {hook['type'] if isinstance(hook, dict) else type(hook) for hook in hooks}
    kinds = {kind if isinstance(kind, str) else f'hstpeft.{kind.__name__}' for kind in named}
    return [*({'type': kind} for kind in PROMISED_HOOKS if kind not in kinds), *hooks]


@contextmanager
def at_work(runner: Runner) -> Iterator[None]:
    """Enter all that holds while a runner trains, validates or tests.

    Args:
        runner: Of any mode.
    """
    with ExitStack() as stack:
        stack.enter_context(memory_explained(runner))
        stack.enter_context(lost_process_named())
        stack.enter_context(unused_parameters_named(runner))
        yield
