"""The steps of the optimisers of a run, for hooks that look at them."""

from collections.abc import Callable
from typing import Any

from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


def before_each_step(
    runner: Runner, look: Callable[[Optimizer, Any, Any], None]
) -> list[RemovableHandle]:
    """Call a function before each step of each optimiser of a run.

    Args:
        runner: One whose optimisers are built.
        look: Takes the optimiser, and the arguments of ``step``. By then gradients are reduced,
            unscaled and clipped; what it raises leaves the weights as they are.

    Returns:
        A handle for each optimiser, to be removed after training.
    """
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [each.optimizer.register_step_pre_hook(look) for each in wrappers]
