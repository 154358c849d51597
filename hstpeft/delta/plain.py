"""What a checkpoint of mmengine may hold beside tensors."""

from collections.abc import Callable

import numpy as np
from mmengine.logging.history_buffer import HistoryBuffer

from hstpeft.compat import numpy_rebuilders
from hstpeft.errors import UserError

_STATISTICS = ('min', 'max', 'current', 'mean')


def plain_classes() -> list:
    """Return what `torch.serialization.safe_globals` lets in: numpy's numbers, and log histories."""
    kinds = (np.float64, np.float32, np.int64, np.int32, np.uint32)
    numpy_classes = [np.ndarray, np.dtype, *{type(np.dtype(kind)) for kind in kinds}]
    history = [HistoryBuffer, (_history_method, 'builtins.getattr')]
    return [*history, *numpy_rebuilders(), *numpy_classes]


def _history_method(owner: type, name: str) -> Callable:
    """Stand in for ``getattr``, by which mmengine's history buffers name their statistics."""
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise UserError(f'it holds {name} of {owner}')
    return getattr(owner, name)
