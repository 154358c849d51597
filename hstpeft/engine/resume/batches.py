"""Batches of the training data by their position, so that a run can go on from any of them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

from mmengine.dist import get_rank
from mmengine.registry import DATA_SAMPLERS as ROOT_DATA_SAMPLERS
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, get_worker_info

from hstpeft.engine.resume.rng import cpu_random_state_kept, derive_seed, seed_cpu
from hstpeft.registry import DATA_SAMPLERS


class SeededIndex(NamedTuple):
    """An index of a data set, and the seed for whatever is random in reading it."""

    index: Any
    seed: int


@DATA_SAMPLERS.register_module()
class ResumableBatches(Sampler):
    """The batches of another batch sampler, each index with a seed, from any position on.

    The seed is a hash of run, process, pass and batch, plus the place in the batch, so that what is
    read depends neither on the number of workers nor on what was read before.

    Args:
        sampler: Gives the indices.
        batch_size: Images per batch; some hosts' batch samplers take one number per data set.
        seed: Of the run.
        batches: Config of the batch sampler; torch's by default.
        drop_last: For torch's batch sampler: leave out an incomplete last batch.

    Attributes:
        epoch: Number of the current or next pass over the data, from 0.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int | Sequence[int],
        seed: int,
        batches: Mapping[str, Any] | None = None,
        drop_last: bool = False,
    ) -> None:
        self.sampler, self.batch_size = sampler, batch_size
        self.seed, self.epoch, self._skip = seed, 0, 0
        if batches is None:
            self.batches: Any = BatchSampler(sampler, batch_size, drop_last)
        else:
            self.batches = ROOT_DATA_SAMPLERS.build(
                {**batches, 'sampler': sampler, 'batch_size': batch_size}
            )

    @property
    def drop_last(self) -> bool:
        """Whether an incomplete last batch is left out."""
        return getattr(self.batches, 'drop_last', False)

    def __len__(self) -> int:
        return len(self.batches)

    def start(self, epoch: int, skip: int = 0) -> None:
        """Let the next iteration be a pass over the data, without its first batches.

        Args:
            epoch: Number of the pass, from 0.
            skip: Batches to leave out; those beyond the end of the pass are left out of the
                passes after it. They are counted and not read.
        """
        self.epoch, self._skip = epoch, skip
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[SeededIndex]]:
        begun = False
        while self._skip or not begun:
            begun = True
            for number, batch in enumerate(self.batches):
                if self._skip:
                    self._skip -= 1
                    continue
                first = derive_seed(self.seed, get_rank(), self.epoch, number)
                yield [SeededIndex(i, (first + k) % 2**32) for k, i in enumerate(batch)]
            if self._skip:
                self.start(self.epoch + 1, self._skip)


def make_resumable(loader: Mapping[str, Any], seed: int, sampler_seed: int) -> dict[str, Any]:
    """Return the config of a loader, changed to give `ResumableBatches`.

    Args:
        loader: As mmengine takes it, with the config of a sampler.
        seed: For reading the samples of this process.
        sampler_seed: For their order; the same in all processes.
    """
    loader = dict(loader)
    loader['sampler'] = {'seed': sampler_seed, **loader['sampler']}
    loader['batch_sampler'] = dict(
        type='hstpeft.ResumableBatches',
        seed=seed,
        batches=loader.get('batch_sampler'),
        drop_last=loader.pop('drop_last', False),
    )
    return loader


def seed_samples(loader: DataLoader) -> None:
    """Let the data set of a loader be read with the seeds of `ResumableBatches`, in place."""
    loader.dataset.__getitems__ = partial(read_samples, loader.dataset)


def read_samples(dataset: Dataset, indices: Sequence[Any]) -> list[Any]:
    """Read the samples of a batch, each with its own seed.

    In the main process the generators are left as they were: they are those of the training.
    """
    in_worker = get_worker_info() is not None
    samples = []
    with nullcontext() if in_worker else cpu_random_state_kept():
        for index in indices:
            if isinstance(index, SeededIndex):
                seed_cpu(index.seed)
                index = index.index
            samples.append(dataset[index])
    return samples
