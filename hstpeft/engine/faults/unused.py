"""Trainable parameters that have no part in the loss."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from hstpeft.engine.distributed import unwrapped
from hstpeft.engine.faults.steps import before_each_step
from hstpeft.errors import UserError, join_first
from hstpeft.registry import HOOKS

_NO_GRADIENT = 'trainable, but without a gradient, since no loss depends on it'
_REMEDY = (
    'set model_wrapper_cfg.find_unused_parameters=True, or freeze or remove what is not used '
    '(one process alone trains without it)'
)


@HOOKS.register_module()
class UnusedParametersHook(Hook):
    """Name trainable parameters without a gradient: an error where DDP would stall, else a warning.

    DDP does not reduce what shares a bucket with such a parameter, and fails in the next forward
    pass with an error that gives indices instead of names.

    Raises:
        UserError: Names the parameters.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def before_train(self, runner: Runner) -> None:
        """Look at the first step of each optimiser; at every step where DDP would stall."""
        model = runner.model
        refuse = isinstance(model, DistributedDataParallel) and not (
            model.find_unused_parameters or model.static_graph
        )
        names = {id(p): name for name, p in unwrapped(runner.model).named_parameters()}
        seen: set[int] = set()

        def look(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if not refuse and id(optimizer) in seen:
                return
            seen.add(id(optimizer))
            parameters = [p for group in optimizer.param_groups for p in group['params']]
            unused = [
                names.get(id(p), '?') for p in parameters if p.requires_grad and p.grad is None
            ]
            if unused and refuse:
                raise UserError(f'{join_first(unused)}: {_NO_GRADIENT}: {_REMEDY}')
            if unused:
                runner.logger.warning(f'{join_first(unused)}: {_NO_GRADIENT}: stays as it is')

        self._handles = before_each_step(runner, look)

    def after_train(self, runner: Runner) -> None:
        """Let go of the optimisers."""
        for handle in self._handles:
            handle.remove()


@contextmanager
def unused_parameters_explained(runner: Runner) -> Iterator[None]:
    """Put names into DDP's own error about parameters without a gradient, should it come first.

    Raises:
        UserError: Names the parameters.
    """
    try:
        yield
    except RuntimeError as error:
        if 'Expected to have finished reduction in the prior iteration' not in str(error):
            raise
        named = unwrapped(runner.model).named_parameters()
        trainable = [name for name, p in named if p.requires_grad]
        found = re.search(r'did not receive grad for rank \d+: ([\d ]+)', str(error))
        indices = map(int, found[1].split()) if found else ()
        unused = [trainable[index] for index in indices]
        raise UserError(
            f'{join_first(unused) or "a parameter"}: {_NO_GRADIENT}: {_REMEDY}'
        ) from error
