"""Steps that float16 loss scaling leaves out."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from hstpeft.engine.faults.steps import before_each_step
from hstpeft.errors import NonFiniteError, check_least
from hstpeft.registry import HOOKS


@HOOKS.register_module()
class SkippedStepsHook(Hook):
    """Count and log the steps that float16 loss scaling skips; end the run if it takes none any more.

    A skip now and then is how the scaler finds its scale. For runs with one optimiser.

    Args:
        max_in_row: This many skipped steps in a row end the run.

    Raises:
        NonFiniteError: So many have been skipped.
    """

    def __init__(self, max_in_row: int = 20) -> None:
        check_least('SkippedStepsHook.max_in_row', max_in_row, 1)
        self.max_in_row = max_in_row
        self.skipped = 0
        self._in_row = 0
        self._taken = False
        self._handles: list[RemovableHandle] = []

    def before_train(self, runner: Runner) -> None:
        """Watch the steps, if there is a scaler."""
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, OptimWrapperDict) and hasattr(wrapper, 'loss_scaler'):
            self._handles = before_each_step(runner, self._notice)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count a step that was due and not taken."""
        if not self._handles or not runner.optim_wrapper.should_update():
            return
        taken, self._taken = self._taken, False
        if taken:
            self._in_row = 0
            return
        self.skipped, self._in_row = self.skipped + 1, self._in_row + 1
        scale = runner.optim_wrapper.loss_scaler.get_scale()
        what = (
            f'the gradients overflowed float16 at iteration {runner.iter + 1}: step skipped, '
            f'{self._in_row} in a row, {self.skipped} since the start; the loss scale is {scale:g}'
        )
        runner.logger.warning(what)
        if self._in_row >= self.max_in_row:
            raise NonFiniteError(
                f'{what}. The weights are those before the first of them, the last checkpoint '
                'stays. Remedy: --bf16 instead of --amp, or a lower optim_wrapper.optimizer.lr'
            )

    def after_train(self, runner: Runner) -> None:
        """Say how many there were."""
        for handle in self._handles:
            handle.remove()
        if self._handles:
            runner.logger.info(f'{self.skipped} steps skipped by the loss scaler')
        self._handles = []

    def _notice(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # A fused optimiser is always called, and leaves the step out by itself.
        found = getattr(optimizer, 'found_inf', None)
        self._taken = found is None or not found.item()
