"""Private names of other packages: every one that hstpeft cannot do without, and none elsewhere.

Each function says what it is for and what happens where the name is gone. `TESTED` are the
versions they were tested with; tests/test_compat.py compares them with requirements/runtime.txt and
looks for private names in every other file.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hstpeft.errors import UserError

TESTED = {
    'torch': '2.12.0',
    'numpy': '2.2.6',
    'timm': '1.0.31',
    'onedl-mmengine': '0.10.12',
    'onedl-mmpretrain': '1.3.6',
}
EXTRA_STATE = '_extra_state'
"""torch: last part of the key under which a state dict keeps ``get_extra_state``.

It is in every checkpoint that torch writes, so it can no more change than a file format.
"""


@functools.cache
def onednn_linear() -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """torch: oneDNN's float32 Linear of x (..., I), weight (O, I) and bias (O,), without autograd.

    None where torch has no oneDNN, no such operator, or one that takes other arguments: then a
    frozen Linear is a plain one.
    """
    if not torch.backends.mkldnn.is_available():
        return None
    operator = getattr(torch.ops.mkldnn, '_linear_pointwise', None)
    if operator is None:
        return None

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return operator(x, weight, bias, 'none', [], '')

    ones = torch.ones(2, 2, device='cpu')
    try:
        known = torch.equal(linear(ones, ones, ones[0]), 3 * ones)
    except (RuntimeError, TypeError):  # what torch raises for other arguments, or none of a kind
        return None
    return linear if known else None


def version(tensor: Tensor) -> object:
    """torch: how often a tensor was changed in place.

    Where that is not counted (a tensor made in inference mode), an object that equals no other: as
    if the tensor had changed.
    """
    counted = hasattr(torch.Tensor, '_version') and not tensor.is_inference()
    return tensor._version if counted else object()


def numpy_rebuilders() -> list[tuple[Callable, str]]:
    """numpy: the functions that rebuild pickled arrays and scalars, with their names in a file.

    The functions come from numpy's public pickling. Their module is a private one, whose name
    depends on the numpy that wrote the file: numpy 1 or 2. Of a third one the checkpoints are
    refused, by name, as everything else that is not allowed.
    """
    modules = ('numpy._core.multiarray', 'numpy.core.multiarray')
    functions = (np.empty(0).__reduce__()[0], np.float64().__reduce__()[0])
    return [(f, f'{module}.{f.__name__}') for f in functions for module in modules]


def window_attention(block: nn.Module, x: Tensor) -> Tensor:
    """timm: attention of a Swin block in shifted windows, on x (B, h, w, C) after the norm.

    Raises:
        UserError: This timm has it under another name.
    """
    return _private(block, '_attn', 'timm')(x)


def whole_dataset(dataset: Any) -> Any:
    """mmengine: the data set from which ``num_batch_per_epoch`` cut this one.

    The data set itself if it is not cut, or if this mmengine cuts otherwise: then what is checked
    is the cut.
    """
    runner = importlib.import_module('mmengine.runner.runner')  # nothing for delta files to load
    sliced = getattr(runner, '_SlicedDataset', None)
    return dataset._dataset if sliced is not None and isinstance(dataset, sliced) else dataset


def chosen_indices(dataset: Any) -> Any:
    """mmengine: the ``indices`` a data set was made with; None if none, or not known."""
    return getattr(dataset, '_indices', None)


def name_classes(dataset: Any, classes: tuple[str, ...]) -> None:
    """mmengine: give a data set the class names that it read while it loaded.

    Raises:
        UserError: This mmengine keeps them elsewhere.
    """
    _private(dataset, '_metainfo', 'onedl-mmengine')['classes'] = classes


def loader_config(runner: Any, name: str) -> Any:
    """mmengine: the config of a runner's loader, e.g. ``train_dataloader``, before it is built.

    None where the runner keeps it elsewhere: messages then say `dataloader`.
    """
    return getattr(runner, f'_{name}', None)


def checkpoint_schemes(loader: type) -> dict[str, Callable]:
    """mmengine: a copy of its readers of checkpoints, by the beginning of the address that each reads.

    Raises:
        UserError: This mmengine keeps them elsewhere: then files cannot be read safely.
    """
    return dict(_private(loader, '_schemes', 'onedl-mmengine'))


def describe_to_inferencers(model: nn.Module, cfg: Any, dataset_meta: Any) -> None:
    """mmpretrain: put config and classes where its inferencers look for those of a built model.

    A version that looks elsewhere asks for a config, as for any model that it did not build.
    """
    model._config, model._dataset_meta = cfg, dataset_meta


def close_loggers() -> None:
    """mmengine: close the log files of runs that are over, and forget their loggers; it keeps all.

    Where it keeps them elsewhere the files stay open until the process ends.
    """
    kind = importlib.import_module('mmengine.logging').MMLogger
    loggers = getattr(kind, '_instance_dict', {})
    for logger in loggers.values():
        for handler in logger.handlers:
            handler.close()
    loggers.clear()


def _private(owner: Any, name: str, package: str) -> Any:
    found = getattr(owner, name, None)
    if found is None:
        raise UserError(
            f'{type(owner).__name__} has no {name} in this version of {package}: install '
            f'{package}=={TESTED[package]}'
        )
    return found
