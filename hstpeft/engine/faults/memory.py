"""Out of memory, in words that help."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.runner import Runner

from hstpeft.compat import loader_config
from hstpeft.engine.checks.parts import LOADERS
from hstpeft.errors import UserError

_WORDS = ("can't allocate memory", 'out of memory', 'CUBLAS_STATUS_ALLOC_FAILED')


@contextmanager
def memory_explained(runner: Runner) -> Iterator[None]:
    """Turn the errors of allocators into one line that says what may help.

    Args:
        runner: Its loaders' batch sizes are named.

    Raises:
        UserError: Memory ran out, on a GPU or the CPU.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not known and not any(words in str(error) for words in _WORDS):
            raise
        peak, where = _peak()
        sizes = [
            f'{name}.batch_size is {size}'
            for name in LOADERS
            if (size := _batch_size(runner, name)) is not None
        ]
        raise UserError(
            f'out of memory, after a peak of {peak / 2**30:.2f} GiB on {where} '
            f'({", ".join(sizes)}): give a smaller batch_size, in training with '
            'optim_wrapper.accumulative_counts, which keeps the images of a step; '
            f'model.backbone.with_cp=True; --bf16; or smaller images. {_first_line(error)}'
        ) from error


def _peak() -> tuple[int, str]:
    """Return the peak of the memory in use, in bytes, and on which device."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated(), torch.cuda.get_device_name()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == 'darwin' else 1024), 'the CPU'


def _batch_size(runner: Runner, name: str) -> int | None:
    loader = loader_config(runner, name)
    return loader.get('batch_size') if isinstance(loader, dict) else None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
