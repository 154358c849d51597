"""Random numbers that depend on the seed and the position in training, and on nothing else.

So a checkpoint needs no random state: a run that goes on from any step draws what the unbroken one
drew there, whatever was validated, prefetched or drawn in between.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from hstpeft.registry import FUNCTIONS, HOOKS


def derive_seed(*position: int | str) -> int:
    """Hash the parts of a position, e.g. seed, rank and step, into a seed of 32 bits."""
    return int.from_bytes(hashlib.blake2b(repr(position).encode(), digest_size=4).digest(), 'big')


def seed_cpu(seed: int) -> None:
    """Seed python's, numpy's and torch's generators of the CPU, which is what data pipelines use."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


@contextmanager
def cpu_random_state_kept() -> Iterator[None]:
    """Leave python's, numpy's and torch's generators of the CPU in the state they were in."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@FUNCTIONS.register_module()
def seed_worker(worker_id: int, **unused: int) -> None:
    """Seed a loader's worker from the loader's own draw, another one each epoch.

    mmengine's default gives every worker the same seed in every epoch, so that augmentations
    repeat. In our own runs each sample is seeded as well (`hstpeft.ResumableBatches`); with a host's
    runner a resume is exact only if workers are not persistent.

    Args:
        worker_id: Number of the worker in its loader; torch has added it to the seed already.
        unused: What mmengine passes to worker functions besides.
    """
    seed_cpu((torch.initial_seed() + 7919 * get_rank()) % 2**32)


@HOOKS.register_module()
class RNGStateHook(Hook):
    """Seed the random numbers of each epoch and step from the run's seed and their number.

    A resumed run then equals an unbroken one, and a validation does not change the training. The name
    is kept for configs of the time when it saved the generators' states.
    """

    # Before any hook that draws.
    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed what is drawn between the start of an epoch and its first step."""
        _seed(runner, 'epoch', runner.epoch)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Seed what a step draws: dropout, drop path, proposals."""
        _seed(runner, 'step', runner.iter)


def _seed(runner: Runner, unit: str, number: int) -> None:
    # With `diff_rank_seed` each process has a seed of its own.
    seed = derive_seed(runner.seed, unit, number)
    seed_cpu(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed(seed)
