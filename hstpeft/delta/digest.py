"""The hash with which a checkpoint is sealed, the same before it is saved and after it was loaded.

It is one of the contents and not of the file. So it can stand in the file itself, and the ``.pth`` and
the ``.safetensors`` of a delta have the same.
"""

import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.logging.history_buffer import HistoryBuffer
from torch import Tensor

from hstpeft.errors import UserError

KEY = 'sha256'
"""Key of the hash: at the top level of a checkpoint, or in the header of a ``.safetensors``."""
_PLAIN = (type(None), bool, int, float, complex)
_THREADS = min(4, os.cpu_count() or 1)
_WORTH_THREADS = 2**26


def digest(content: Any, limit: float = float('inf')) -> str:
    """Hash nested contents: tensors, arrays, history buffers and plain values.

    Order counts in lists and not in dicts. An object of any other class counts by its class alone: our
    reader lets none in.

    Args:
        content: What is to be saved, or was loaded.
        limit: Bytes that the values may hold: a small file can name the same storage a million times.

    Returns:
        A sha256 as 64 hexadecimal digits.

    Raises:
        ValueError: There is more than ``limit``.
    """
    tensors = list(_tensors(content, set()))
    size = sum(t.numel() * t.element_size() for t in tensors)
    if size > limit:
        raise ValueError(f'its tensors stand for more than {limit:.2g} bytes')
    known = dict(zip(map(id, tensors), _hash_all(tensors, size), strict=True))
    return hashlib.sha256(_Hasher(known, limit).of(content)).hexdigest()


def seal(content: dict[str, Any]) -> None:
    """Put the hash of all that is to be saved beside it, in place."""
    content.pop(KEY, None)
    content[KEY] = digest(content)


def unseal(content: dict[str, Any], what: str, limit: float = float('inf')) -> None:
    """Take the hash out of what was loaded, in place, after comparing.

    Args:
        content: What `seal` was given; without a hash the log says so.
        what: What messages call it.
        limit: Bytes that the values may hold.

    Raises:
        UserError: It is not what was saved, or has more than ``limit``.
    """
    said = content.pop(KEY, None)
    if said is None:
        print_log(f'{what} carries no sha256, so that damage may go unseen', logger='current')
        return
    try:
        found = digest(content, limit)
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f'{what} cannot be read safely: {error}') from error
    if found != said:
        raise UserError(
            f'{what} is damaged: its contents have the sha256 {found[:12]}, and {str(said)[:12]} '
            "when they were saved: take another copy (if you changed it yourself, delete its 'sha256')"
        )


class _Hasher:
    """Hashes nodes from the leaves up, each object once however often it is named.

    Args:
        known: Hashes by ``id`` of the object, tensors first.
        limit: Bytes that everything but the tensors may hold.
    """

    def __init__(self, known: dict[int, bytes], limit: float) -> None:
        self.known = known
        self.left = limit
        self.alive: list[Any] = []

    def of(self, value: Any) -> bytes:
        """Return the hash of a value."""
        if type(value) in _PLAIN:  # numpy's float64 is a float, but prints otherwise
            return f'{type(value).__name__} {value!r}'.encode()
        if id(value) not in self.known:
            self.alive.append(value)  # its id is its own as long as it lives
            parts = self._parts(value)
            # Each part with its length, so that no two lists make the same text.
            text = b''.join(len(part).to_bytes(8, 'little') + part for part in parts)
            self.known[id(value)] = hashlib.sha256(text).digest()
        return self.known[id(value)]

    def _parts(self, value: Any) -> list[bytes]:
        if isinstance(value, str):
            return [b'str', self._counted(value.encode(errors='surrogatepass'))]
        if isinstance(value, (bytes, bytearray)):
            return [b'bytes', self._counted(bytes(value))]
        if isinstance(value, Mapping):
            items = sorted((self.of(key), self.of(item)) for key, item in value.items())
            # A state dict keeps the versions of its modules in an attribute.
            return [
                b'dict',
                *itertools.chain(*items),
                self.of(getattr(value, '__dict__', None) or None),
            ]
        if isinstance(value, (list, tuple)):
            return [b'list', *map(self.of, value)]
        if isinstance(value, (set, frozenset)):
            return [b'set', *sorted(map(self.of, value))]
        if isinstance(value, HistoryBuffer):
            return [b'history', str(value.max_length).encode(), *map(self.of, value.data)]
        if isinstance(value, (np.ndarray, np.generic)):
            return self._array(value)
        if isinstance(value, Tensor):  # within anything but dicts and lists
            return [_hash_tensor(value)]
        return [b'object', f'{type(value).__module__}.{type(value).__qualname__}'.encode()]

    def _array(self, value: np.ndarray | np.generic) -> list[bytes]:
        if value.dtype.hasobject:
            return [b'objects', self.of(value.tolist())]
        self._count(value.nbytes)
        return [b'array', value.dtype.str.encode(), repr(value.shape).encode(), value.tobytes()]

    def _counted(self, raw: bytes) -> bytes:
        self._count(len(raw))
        return raw

    def _count(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValueError('its values are larger than the file')


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Yield each tensor of nested contents once."""
    if id(value) in seen or not isinstance(value, (Tensor, Mapping, list, tuple)):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    else:
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item, seen)


def _hash_all(tensors: list[Tensor], size: int) -> list[bytes]:
    """Hash tensors; many bytes in threads, for sha256 lets go of Python's lock."""
    if size < _WORTH_THREADS:
        return [*map(_hash_tensor, tensors)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [*pool.map(_hash_tensor, tensors)]


def _hash_tensor(tensor: Tensor) -> bytes:
    # Only dense ones have bytes of their own; no other kind is in a state dict of ours.
    head = f'tensor {tensor.dtype} {tuple(tensor.shape)} {tensor.layout}'
    result = hashlib.sha256(head.encode())
    if tensor.layout == torch.strided and not tensor.is_quantized and tensor.numel():
        plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        result.update(memoryview(plain.reshape(-1).view(torch.uint8).numpy()))
    return result.digest()
