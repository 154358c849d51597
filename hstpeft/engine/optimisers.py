"""What the hooks that look at steps of an optimiser share."""

from collections.abc import Callable
from typing import Any

from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


def before_each_step(
    runner: Runner, look: Callable[[Optimizer, Any, Any], None]
) -> list[RemovableHandle]:
    """Call a function with the optimiser before each step that it takes, for every one of a run.

    Args:
        runner: One whose optimisers are built.
        look: Takes the optimiser, and the arguments of ``step``. Gradients are reduced, unscaled
            and clipped then; what it raises leaves the weights as they are.
    """
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [each.optimizer.register_step_pre_hook(look) for each in wrappers]


def shown(names: list[str], most: int = 3) -> str:
    """List the first of some names, and how many more there are."""
    rest = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + rest
