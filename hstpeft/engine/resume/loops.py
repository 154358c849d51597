"""mmengine's training loops, which go on in the middle of a pass over the data."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader

from hstpeft.engine.resume.batches import ResumableBatches
from hstpeft.registry import LOOPS


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """Epoch-based training that goes on from a checkpoint within an epoch.

    Attributes:
        epoch_begin: The iteration at which the current epoch began, or the next one begins.
        skipped: Batches of the current epoch that were trained on before the checkpoint.
    """

    epoch_begin = 0
    skipped = 0

    def run_epoch(self) -> None:
        """Train the rest of an epoch."""
        self.skipped = self.iter - self.epoch_begin
        batches = self.dataloader.batch_sampler
        if isinstance(batches, ResumableBatches):
            batches.start(self.epoch, self.skipped)
        elif self.skipped:
            _warn_of_other_data()
        super().run_epoch()
        self.epoch_begin = self.iter

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Train one step; ``idx`` counts from the first batch after those skipped."""
        super().run_iter(idx + self.skipped, data_batch)


@LOOPS.register_module()
class ResumableIterLoop(IterBasedTrainLoop):
    """Iteration-based training that goes on from any checkpoint."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.dataloader.batch_sampler, ResumableBatches):
            self.dataloader_iterator = EndlessBatches(self.dataloader)

    def run(self) -> nn.Module:
        """Train, and end the loader's workers however it ends."""
        endless = isinstance(self.dataloader_iterator, EndlessBatches)
        if self.iter and not endless:
            _warn_of_other_data()
        try:
            return super().run()
        finally:
            if endless:
                self.dataloader_iterator.close()


class EndlessBatches:
    """Pass after pass over a loader's data; what `IterBasedTrainLoop` takes its batches from.

    mmengine's own reads the batches that a resumed run skips, and sleeps between passes.

    Args:
        loader: With `ResumableBatches`.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.iterator: Iterator[Any] | None = None

    def skip_iter(self, count: int) -> None:
        """Go to the batch that follows ``count`` batches, without reading those."""
        self.loader.batch_sampler.start(0, count)

    def __iter__(self) -> 'EndlessBatches':
        return self

    def __next__(self) -> Any:
        if self.iterator is None:
            self.iterator = iter(self.loader)
        for _ in range(2):
            for batch in self.iterator:
                return batch
            batches = self.loader.batch_sampler
            batches.start(batches.epoch + 1)
            self.iterator = iter(self.loader)
        raise StopIteration  # a loader without batches

    def close(self) -> None:
        """Let the loader's workers end."""
        self.iterator = None


def _warn_of_other_data() -> None:
    print_log(
        '--resume: this train_dataloader cannot go on from a position: the data that follow are '
        'in another order or otherwise augmented than in an unbroken run',
        logger='current',
        level=logging.WARNING,
    )
