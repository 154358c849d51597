"""Random numbers that survive a resume."""

import random

import numpy as np
import torch
from mmengine.dist import all_gather, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor

from hstpeft.registry import FUNCTIONS, HOOKS


@FUNCTIONS.register_module()
def seed_worker(worker_id: int, **unused: int) -> None:
    """Seed a loader's worker from the loader's own draw, another one each epoch.

    mmengine's default gives every worker the same seed in every epoch, so that augmentations
    repeat. For exact resume the loader must not be persistent.

    Args:
        worker_id: Number of the worker in its loader; torch has added it to the seed already.
        unused: What mmengine passes to worker functions besides.
    """
    seed = (torch.initial_seed() + 7919 * get_rank()) % 2**32
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@HOOKS.register_module()
class RNGStateHook(Hook):
    """Keep the random state in the checkpoints, so that a resumed run equals an unbroken one.

    The state at the end of an epoch is what the next epoch starts from, whether or not a
    validation was in between. Epoch-based training resumes bit-exact on the CPU; iteration-based
    training keeps the state but not the loader's prefetched batches.
    """

    # After the loggers, before the CheckpointHook, which is VERY_LOW.
    priority = 'LOW'

    def __init__(self) -> None:
        self.state: Tensor | None = None

    def after_train_epoch(self, runner: Runner) -> None:
        """Take the state of all ranks."""
        self.state = _gather(capture())

    def before_train_epoch(self, runner: Runner) -> None:
        """Go back to the state at the end of the epoch before."""
        if self.state is not None and len(self.state) == get_world_size():
            restore(self.state[get_rank()])

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write the state into the checkpoint."""
        epoch_based = isinstance(runner.train_loop, EpochBasedTrainLoop)
        state = self.state if epoch_based else capture().unsqueeze(0)
        if state is not None:
            checkpoint['rng_state'] = state

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Read the state from a checkpoint; used when training goes on from it."""
        state = checkpoint.get('rng_state')
        self.state = None if state is None else state.cpu()
        if state is not None and len(state) != get_world_size():
            runner.logger.warning(
                f'the checkpoint holds the random state of {len(state)} processes, now there are '
                f'{get_world_size()}: the run goes on with fresh random numbers'
            )


def capture() -> Tensor:
    """Pack the states of python, numpy and torch (CPU and current GPU) into a byte tensor.

    Bytes and not the objects: a checkpoint must load with ``weights_only=True``, which lets in
    tensors but neither tuples of python's generator nor numpy's arrays.
    """
    version, numbers, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    parts = [
        np.array([version, *numbers], dtype=np.int64).tobytes(),
        np.array([np.nan if gauss is None else gauss]).tobytes(),
        keys.astype(np.uint32).tobytes(),
        np.array([position, has_gauss], dtype=np.int64).tobytes(),
        np.array([cached]).tobytes(),
        torch.get_rng_state().numpy().tobytes(),
        torch.cuda.get_rng_state().numpy().tobytes() if torch.cuda.is_available() else b'',
    ]
    sizes = np.array([len(part) for part in parts], dtype=np.int64).tobytes()
    return torch.tensor(list(sizes + b''.join(parts)), dtype=torch.uint8)


def restore(state: Tensor) -> None:
    """Undo `capture`."""
    raw = bytes(state.tolist())
    # `capture` wrote the lengths of its seven parts first: their sizes differ by version and machine.
    sizes, start, parts = np.frombuffer(raw[:56], dtype=np.int64), 56, []
    for size in sizes:
        parts.append(raw[start : start + size])
        start += size
    version, *numbers = np.frombuffer(parts[0], dtype=np.int64).tolist()
    # Both gauss generators make two numbers at once and keep one: without it the next draw differs.
    gauss = float(np.frombuffer(parts[1])[0])
    random.setstate((version, tuple(numbers), None if np.isnan(gauss) else gauss))
    position, has_gauss = np.frombuffer(parts[3], dtype=np.int64).tolist()
    keys = np.frombuffer(parts[2], dtype=np.uint32)
    cached = float(np.frombuffer(parts[4])[0])
    np.random.set_state(('MT19937', keys, position, has_gauss, cached))
    torch.set_rng_state(torch.tensor(list(parts[5]), dtype=torch.uint8))
    if parts[6] and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(list(parts[6]), dtype=torch.uint8))


def _gather(state: Tensor) -> Tensor:
    """Stack the states of all ranks: (ranks, bytes)."""
    return torch.stack([part.cpu() for part in all_gather(state)])
