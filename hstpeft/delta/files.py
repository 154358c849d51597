"""Reading and writing checkpoints without running anybody's code.

A *training checkpoint* (mmengine's ``epoch_N.pth``) holds optimiser, history and RNG as well; a
*delta* holds a state dict and plain metadata and loads with bare ``weights_only=True``.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hstpeft.compat import EXTRA_STATE, numpy_rebuilders
from hstpeft.delta.identity import decode_identity
from hstpeft.errors import UserError
from hstpeft.version import __version__

_STATISTICS = ('min', 'max', 'current', 'mean')


def load_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Read a training checkpoint or a delta (``.pth`` or ``.safetensors``) to the CPU.

    Returns:
        A dict with ``state_dict`` and ``meta`` (and whatever a training checkpoint holds).

    Raises:
        UserError: The file is missing, damaged, no checkpoint, or holds more than plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f'checkpoint {path} does not exist')
    if path.suffix == '.safetensors':
        return _load_safetensors(path)
    # numpy's history buffers in mmengine's own checkpoints are the only classes let in.
    allowed = [HistoryBuffer, (_history_method, 'builtins.getattr'), *_numpy_classes()]
    try:
        with torch.serialization.safe_globals(allowed):
            checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a damaged zip, pickle or tensor raises one of a dozen types
        # torch's first line advises to load the file unsafely; the reason stands below it.
        culprit = re.search(r'GLOBAL (\S+)', str(error))
        reason = f'it holds {culprit[1]}' if culprit else str(error).split('\n')[0][:200]
        raise UserError(f'checkpoint {path} cannot be read safely: {reason}') from error
    if not isinstance(checkpoint, dict) or 'state_dict' not in checkpoint:
        raise UserError(f'checkpoint {path} has no state_dict: it is not one of hstpeft')
    return checkpoint


def make_delta(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Make a delta out of a checkpoint: its state dict and plain metadata, nothing of the run.

    Args:
        checkpoint: What `load_checkpoint` or a runner gives; only ``state_dict`` is needed.

    Returns:
        ``{'state_dict': tensors, 'meta': JSON-like values}``; the metadata are those of
        `describe`, and ``epoch``, ``iter`` and ``dataset_meta`` where the checkpoint has them.

    Raises:
        UserError: The checkpoint is not one of hstpeft.
    """
    state = {key: value.detach().cpu() for key, value in checkpoint['state_dict'].items()}
    old = checkpoint.get('meta', {})
    kept = {key: old[key] for key in ('epoch', 'iter', 'dataset_meta') if key in old}
    return {'state_dict': state, 'meta': json.loads(json.dumps({**kept, **describe(state)}))}


def describe(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Say what a state dict belongs to: ``trunk``, ``tuner``, and the ``versions`` that are running.

    Raises:
        UserError: It holds no identity of a trunk.
    """
    extra = [value for key, value in state_dict.items() if key.endswith(EXTRA_STATE)]
    if len(extra) != 1:
        raise UserError('the checkpoint has no trunk identity, so it is not one of hstpeft')
    identity = decode_identity(extra[0])
    versions = {'hstpeft': __version__, 'torch': torch.__version__}
    return {'trunk': identity.trunk, 'tuner': identity.words, 'versions': versions}


def save_delta(delta: Mapping[str, Any], path: str | os.PathLike) -> int:
    """Write a delta atomically, as ``.pth`` or, by the suffix, as ``.safetensors``.

    Args:
        delta: ``state_dict`` and ``meta`` as `make_delta` makes them.
        path: File to write; folders are made.

    Returns:
        The size of the file in bytes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Clones: a view would drag its whole storage into the file.
    state = {key: value.clone().contiguous() for key, value in delta['state_dict'].items()}
    temporary = path.with_name(f'.{path.name}.tmp')
    try:
        if path.suffix == '.safetensors':
            save_file(state, temporary, metadata={'meta': json.dumps(delta['meta'])})
        else:
            torch.save({'state_dict': state, 'meta': dict(delta['meta'])}, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path.stat().st_size


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework='pt') as file:
            state: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            meta = json.loads((file.metadata() or {}).get('meta', '{}'))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f'checkpoint {path} cannot be read: {error}') from error
    return {'state_dict': state, 'meta': meta}


def _history_method(owner: type, name: str) -> Callable:
    """Stand in for ``getattr``, by which mmengine's history buffers name their statistics."""
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise UserError(f'it holds {name} of {owner}')
    return getattr(owner, name)


def _numpy_classes() -> list:
    kinds = (np.float64, np.float32, np.int64, np.int32, np.uint32)
    return [*numpy_rebuilders(), np.ndarray, np.dtype, *{type(np.dtype(k)) for k in kinds}]
