"""Reading torch files: nothing in them runs, and none takes more memory than it has bytes."""

import logging
import os
import pickle  # nosec B403 (for the name of an error)
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from mmengine.logging import print_log

from hstpeft.errors import UserError

_ZIP = b'PK\x03\x04'
_COMPRESSED = (b'\x1f\x8b', b'BZh', b'\xfd7zXZ', b'7z\xbc\xaf', b'(\xb5/\xfd')
# An honest .npz of weights shrinks to half at the least; one of zeros is smaller than the second.
_MOST_RATIO, _MOST_SMALL = 20, 64 * 2**20


@contextmanager
def open_source(path: Path, what: str) -> Iterator[BinaryIO]:
    """Open a file to be read once: what is checked is what is loaded.

    Args:
        path: File to read.
        what: What messages call it, e.g. ``checkpoint FILE``.

    Raises:
        UserError: The file is missing or may not be read.
    """
    if not path.is_file():
        raise UserError(f'{what} does not exist')
    try:
        file = open(path, 'rb')  # noqa: SIM115 (an error further down is not one of opening)
    except OSError as error:
        raise UserError(f'{what} cannot be read: {error.strerror}') from error
    with file:
        yield file


def read_torch(file: BinaryIO, what: str, allowed: Sequence = (), trust: bool = False) -> Any:
    """Read a torch file to the CPU.

    Args:
        file: Of `open_source`.
        what: What messages call it.
        allowed: Classes and functions that may be in it besides torch's own.
        trust: The user vouches for the file: what it holds may be of any class, and may run.

    Raises:
        UserError: The file is damaged, no torch file, or holds more than is allowed.
    """
    if trust:
        print_log(
            f'{what} is trusted: it may run programs', logger='current', level=logging.WARNING
        )
    try:
        if seems := looks_like(file):
            raise ValueError(seems)
        check_archive(file, stored=True)
        file.seek(0)
        with torch.serialization.safe_globals(list(allowed)):
            # Anything but plain data only where the user vouches for this very file.
            return torch.load(file, map_location='cpu', weights_only=not trust)  # nosec B614
    except Exception as error:  # a damaged zip, pickle or tensor raises one of a dozen types
        culprit = re.search(r'GLOBAL (\S+)', str(error))
        reason = f'it holds {culprit[1]}' if culprit else _reason(error)
        raise UserError(f'{what} cannot be read safely: {reason}') from error


def check_archive(file: BinaryIO, stored: bool) -> None:
    """Raise unless a zip file is whole and no bomb; other files pass.

    Args:
        file: Open file.
        stored: Nothing in it may be compressed, as in torch's files. Otherwise it may unpack to
            twenty times its size.

    Raises:
        ValueError: It holds more than it may, or a record does not match its CRC32.
        zipfile.BadZipFile: It is damaged.
    """
    file.seek(0)
    if file.read(len(_ZIP)) != _ZIP:
        return
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if stored and any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise ValueError('it holds compressed records, which torch does not write')
        unpacked = sum(record.file_size for record in records)
        if unpacked > (size if stored else _MOST_RATIO * size + _MOST_SMALL):
            raise ValueError(f'its {size:,} bytes unpack to {unpacked:,}')
        if (damaged := archive.testzip()) is not None:  # torch itself does not look
            raise ValueError(f'{damaged} in it is damaged: take another copy')


def looks_like(file: BinaryIO) -> str:
    """Say what a file seems to be that is no torch file; empty if it might be one."""
    file.seek(0)
    head = file.read(512)
    if not head:
        return 'it is empty'
    if head.startswith(b'version https://git-lfs'):
        return 'it is a pointer of Git LFS: get the file itself (git lfs pull)'
    if head.startswith(_COMPRESSED):
        return 'it is a compressed archive: unpack it first'
    if head.startswith(_ZIP):
        return _zip_kind(file)
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') < 10**8:
        return 'it seems to be a safetensors file: its name must end in .safetensors'
    text = head.decode(errors='replace').rstrip('\ufffd')  # a letter may be cut at the end
    if text and all(letter.isprintable() or letter in '\t\r\n' for letter in text):
        kind = (
            'a web page' if text.lstrip().lower().startswith(('<!doctype', '<html')) else 'a text'
        )
        return f'it seems to be {kind}, no file of weights: download it again or fix the path'
    return ''


def _zip_kind(file: BinaryIO) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception:  # a damaged directory raises one of half a dozen types
        return 'it is incomplete or damaged: take another copy'
    if any(name.endswith('.npy') for name in names):
        return 'it is a numpy archive (.npz): as weights of a trunk give it as trunk.weights'
    if not any(name.endswith('data.pkl') for name in names):
        return 'it is a zip archive, but none of torch'
    return ''


def _reason(error: Exception) -> str:
    """Return the reason alone: torch's first line advises loading the file unsafely."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) or 'weights_only' in text:
        said = re.search(r'WeightsUnpickler error: ([^\n]*)', text)
        return f'its pickle is damaged or none ({said[1].strip()[:100] if said else "no reason"})'
    first = text.split('\n')[0][:200]
    return first if isinstance(error, ValueError) else f'{type(error).__name__}: {first}'
