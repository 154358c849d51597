"""Hooks for jobs of several processes: what each one does, and what may happen to it.

A leaf gets them by ``custom_imports``; what they see goes to the folder that ``RECORDS`` names.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.nn import functional as F

IMPORTS = "custom_imports = dict(imports=['tests.support.rank_hooks'])\n"


@HOOKS.register_module()
class FaultHook(Hook):
    """Send a process a signal behind a step; not again when the job was restarted.

    Args:
        rank: Which process.
        step: Counted over all epochs from 0.
        name: Of the signal.
    """

    priority = 'VERY_LOW'  # behind the checkpoint of the step

    def __init__(self, rank: int, step: int, name: str) -> None:
        self.rank, self.step, self.signal = rank, step, getattr(signal, name)

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """Happen."""
        first = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') == '0'
        if first and runner.iter == self.step and get_rank() == self.rank:
            os.kill(os.getpid(), self.signal)


@HOOKS.register_module()
class RecordHook(Hook):
    """Record what a process draws, predicts and writes, and its buffers as time goes by."""

    priority = 'NORMAL'  # in front of the hooks that make the buffers the same

    def __init__(self) -> None:
        self.writes: list[str] = []
        self.found: dict[str, Any] = {'predictions': {}, 'writes': self.writes}
        sys.addaudithook(self._audit)

    def before_train(self, runner: Any) -> None:
        """Draw a mask, as a layer with dropout would, and go back to the state before."""
        state = torch.get_rng_state()
        self.found['mask'] = F.dropout(torch.ones(64), 0.5)
        torch.set_rng_state(state)

    def before_train_epoch(self, runner: Any) -> None:
        """Of a later epoch: behind the hooks at the end of the one before."""
        self.found.setdefault('next epoch', []).append(_buffers(runner))

    def after_train_epoch(self, runner: Any) -> None:
        """Of each process as its own batches made them."""
        self.found['trained'] = _buffers(runner)

    def before_val_epoch(self, runner: Any) -> None:
        """What is validated."""
        self.found['validated'] = _buffers(runner)

    def after_val_iter(self, runner: Any, *args: Any, outputs: Any = None, **kwargs: Any) -> None:
        """The scores of each image."""
        scores = {Path(x.img_path).name: x.pred_score.clone() for x in outputs}
        self.found['predictions'].update(scores)

    after_test_iter = after_val_iter

    def after_run(self, runner: Any) -> None:
        """Write it all down."""
        own = [path for path in self.writes if Path(path).is_relative_to(runner.work_dir)]
        folder = Path(os.environ['RECORDS'])
        torch.save({**self.found, 'writes': own}, folder / f'{get_rank()}.pth')

    def _audit(self, event: str, values: tuple) -> None:
        if event == 'open' and isinstance(values[0], str):
            if values[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.writes.append(values[0])
        elif event in ('os.remove', 'os.rename'):
            self.writes.append(str(values[0]))


def _buffers(runner: Any) -> dict[str, torch.Tensor]:
    model = getattr(runner.model, 'module', runner.model)
    return {name: buffer.clone() for name, buffer in model.named_buffers()}
