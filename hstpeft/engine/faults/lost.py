"""Errors that mean: another process of the job has died or hangs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.dist import get_rank, get_world_size
from torch import distributed

from hstpeft.errors import LostProcessError

_WORDS = (
    'gloo/transport',  # every error of a connection between two processes
    'Application timeout caused pair closure',
    'NCCL communicator was aborted',
    'Watchdog caught collective operation timeout',
)


@contextmanager
def lost_process_explained() -> Iterator[None]:
    """Turn the error of a collective that another process did not join into one line.

    Raises:
        LostProcessError: Names the process, where there is only one other.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        known = isinstance(error, distributed.DistError) or any(words in text for words in _WORDS)
        # The launcher's variables also hold before the processes have found each other.
        rank = int(os.environ.get('RANK', get_rank()))
        world = int(os.environ.get('WORLD_SIZE', get_world_size()))
        if world < 2 or not known:
            raise
        others = [other for other in range(world) if other != rank]
        which = f'rank {others[0]}' if len(others) == 1 else f'another rank than {rank}'
        how = 'hangs, or is slower than env_cfg.dist_cfg.timeout' if _timed_out(text) else 'died'
        raise LostProcessError(
            f'rank {rank} waited for {which}, which {how}: its own log says why. Go on with '
            f'--resume; dist_train.sh CONFIG GPUS --max-restarts N does so by itself. '
            f'({text.strip().splitlines()[0]})'
        ) from error


def _timed_out(text: str) -> bool:
    return 'timed out' in text.lower() or 'timeout' in text.lower()
