"""Reading and writing checkpoints without running anybody's code.

A *training checkpoint* (mmengine's ``epoch_N.pth``) holds optimiser, schedules and history as well; a
*delta* holds a state dict and plain metadata and loads with bare ``weights_only=True``. Both are
*sealed*: they hold a hash of their own contents, see `hstpeft.delta.digest`.
"""

import hashlib
import io
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from hstpeft.compat import EXTRA_STATE
from hstpeft.delta.digest import KEY, seal, unseal
from hstpeft.delta.identity import decode_identity
from hstpeft.delta.plain import plain_classes
from hstpeft.delta.reading import looks_like, open_source, read_torch
from hstpeft.delta.writing import write_file
from hstpeft.errors import UserError
from hstpeft.version import __version__

_SEALED = 'sealed'
_KEPT = ('epoch', 'iter', 'dataset_meta', 'averaged')


def load_checkpoint(path: str | os.PathLike, trust: bool = False) -> dict[str, Any]:
    """Read a training checkpoint or a delta (``.pth`` or ``.safetensors``) to the CPU.

    The file is opened and read once, and its contents are compared with the hash in it. The log says
    if there is none, as in files of version 0.2.0 and before and in those of others.

    Args:
        path: File to read. If its name ends in a hash, as `hstpeft.apis.publish` names files, this
            must be that of its bytes.
        trust: The user vouches for the file: what it holds may be of any class, and may run.

    Returns:
        A dict with ``state_dict`` and ``meta`` (and whatever a training checkpoint holds).

    Raises:
        UserError: The file is missing, damaged, no checkpoint, or holds more than plain data.
    """
    path = Path(path)
    what = f'checkpoint {path}'
    with open_source(path, what) as file:
        _check_name(path, file)
        size = os.fstat(file.fileno()).st_size
        if path.suffix == '.safetensors':
            checkpoint = _read_safetensors(file, what)
        else:
            checkpoint = read_torch(file, what, plain_classes(), trust)
    _check_kind(checkpoint, what)
    unseal(checkpoint, what, 4 * size + 2**26)
    return checkpoint


def make_delta(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Make a delta out of a checkpoint: its state dict and plain metadata, nothing of the run.

    Args:
        checkpoint: What `load_checkpoint` or a runner gives; only ``state_dict`` is needed.

    Returns:
        ``{'state_dict': tensors, 'meta': JSON-like values}``; the metadata are those of
        `describe`, and ``epoch``, ``iter``, ``dataset_meta`` and ``averaged`` (see
        `hstpeft.delta.average`) where the checkpoint has them.

    Raises:
        UserError: The checkpoint is not one of hstpeft.
    """
    state = {key: value.detach().cpu() for key, value in checkpoint['state_dict'].items()}
    old = checkpoint.get('meta', {})
    kept = {key: old[key] for key in _KEPT if key in old}
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
    return write_file(path, pack_delta(delta, path.suffix))


def pack_delta(delta: Mapping[str, Any], suffix: str) -> bytes | memoryview:
    """Return the bytes of a delta's file, with the hash of its contents.

    Args:
        delta: ``state_dict`` and ``meta`` as `make_delta` makes them.
        suffix: ``.safetensors``; any other means torch's format.
    """
    # Clones: a view would drag its whole storage into the file.
    state = {key: value.clone().contiguous() for key, value in delta['state_dict'].items()}
    content: dict[str, Any] = {'state_dict': state, 'meta': dict(delta['meta'])}
    if suffix != '.safetensors':
        seal(content)
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getbuffer()
    content['meta'] = json.loads(json.dumps(content['meta']))
    seal(content)
    # Under one key: safetensors writes several in any order, and files would not be byte-stable.
    # The note that there is a hash lies apart from it, so that no single damage hides both.
    text = json.dumps({_SEALED: True, **content['meta'], KEY: content[KEY]})
    return safetensors.torch.save(state, {'meta': text})


def _read_safetensors(file: BinaryIO, what: str) -> dict[str, Any]:
    content = file.read()
    try:
        state = safetensors.torch.load(content)
        # The length of the header, then the header as JSON; `load` has checked them.
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], 'little')])
        text = header.get('__metadata__', {}).get('meta')
        meta = None if text is None else json.loads(text)
    except Exception as error:  # a damaged header, type or shape raises one of half a dozen types
        reason = looks_like(file) if content[8:9] != b'{' else ''
        raise UserError(f'{what} cannot be read: {reason or error}') from error
    if not isinstance(meta, dict):
        return state
    said = {key: meta.pop(key) for key in (KEY,) if key in meta}
    if meta.pop(_SEALED, False) and not said:
        raise UserError(f'{what} is damaged: it has lost its sha256: take another copy')
    return {'state_dict': state, 'meta': meta, **said}


def _check_name(path: Path, file: BinaryIO) -> None:
    """Raise if the name is that of a published file, NAME-XXXXXXXX, and the bytes are not."""
    ending = re.search(r'-([0-9a-f]{8})$', path.stem)
    if ending is None or _is_date(ending[1]):
        return
    found = hashlib.file_digest(file, 'sha256').hexdigest()[:8]
    file.seek(0)
    if found != ending[1]:
        raise UserError(
            f'checkpoint {path} is not what its name says: its sha256 begins with {found}. Take '
            f'another copy; if -{ending[1]} is no hash, rename the file'
        )


def _is_date(digits: str) -> bool:
    try:
        return 1990 <= time.strptime(digits, '%Y%m%d').tm_year < 2100
    except ValueError:
        return False


def _check_kind(checkpoint: Any, what: str) -> None:
    """Raise unless it is a checkpoint of a model; the error says what else it seems to be."""
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get('state_dict'), Mapping):
        if isinstance(checkpoint.get('meta', {}), dict):
            return
        raise UserError(f'{what} is damaged: its meta is no dict')
    tensors = checkpoint.get('model', checkpoint) if isinstance(checkpoint, dict) else checkpoint
    seems = ''
    if isinstance(tensors, Mapping) and any(isinstance(v, Tensor) for v in tensors.values()):
        seems = (
            '. It seems to hold the weights of a trunk: give them as model.backbone.trunk.weights '
            '(an official checkpoint: convert it with tools/model_converters)'
        )
    raise UserError(f'{what} has no state_dict: it is not one of hstpeft{seems}')
