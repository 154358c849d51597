"""Files that are there as a whole or not at all, even if the process or the machine dies."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from hstpeft.errors import UserError

_TEMPORARY = re.compile(r'\..+\.\d+\.tmp')
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


Content = bytes | memoryview | str | Callable[[BinaryIO], None]
"""What is written: bytes, a text as UTF-8, or a function that writes to an open file."""


def write_file(path: str | os.PathLike, content: Content) -> int:
    """Write a file atomically: a reader finds the old one or the whole new one.

    It is written beside the target, forced to the disk, and moved over it. What killed writes have left
    in the folder is removed first.

    Args:
        path: File to write, through a link if it is one; folders are made.
        content: What to write.

    Returns:
        The size of the file in bytes.

    Raises:
        UserError: It cannot be written; the old file is intact, and no temporary one is left.
    """
    path, sink = Path(os.path.realpath(path)), _Sink()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # /dev/stdout, a pipe: nothing to be moved over
            with open(path, 'wb') as file:
                sink.fill(file, content)
        else:
            _replace(path, content, sink)
    except OSError as error:
        raise UserError(f'{path} cannot be written: {_reason(path, sink.size, error)}') from error
    return sink.size


class _Sink:
    """The file that a function writes to; an error of the disk is raised at the end.

    torch writes from C++, where an exception would end the process. After an error the bytes are only
    counted.

    Attributes:
        size: Bytes that were to be written.
    """

    def __init__(self) -> None:
        self.size = 0

    def fill(self, file: BinaryIO, content: Content) -> None:
        """Write contents to a file and flush it."""
        self.file, self.error = file, None
        if callable(content):
            content(self)
        else:
            self.write(content.encode() if isinstance(content, str) else content)
        if self.error is not None:
            raise self.error
        file.flush()

    def write(self, data: bytes | memoryview) -> int:
        """Write a part."""
        size = memoryview(data).nbytes
        self.size += size
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return size

    def flush(self) -> None:
        """Do nothing: `fill` flushes once."""


def check_writable(folder: str | os.PathLike, name: str) -> None:
    """Make a folder and raise unless a file can be written there.

    Args:
        folder: Where a run is going to write.
        name: Option that names the folder, for the message.

    Raises:
        UserError: The folder cannot be made or written.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b'written')
            file.flush()
    except OSError as error:
        raise UserError(f'{name} {folder} is not writable: {error.strerror or error}') from error


def _replace(path: Path, content: Content, sink: _Sink) -> None:
    _remove_leftovers(path.parent)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with open(temporary, 'wb') as file:
            # Held as long as we live, so that nobody takes the file for a leftover.
            with contextlib.suppress(OSError):  # some network drives have no locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sink.fill(file, content)
            os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed writes have left in a folder; files that are being written stay."""
    with os.scandir(folder) as entries:
        found = [Path(entry.path) for entry in entries if _TEMPORARY.fullmatch(entry.name)]
    for path in found:
        with contextlib.suppress(OSError), open(path, 'rb') as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while it is being written
            path.unlink()


def _sync_folder(folder: Path) -> None:
    """Force the new name of a file to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system on which folders cannot be synced
            raise
    finally:
        os.close(handle)


def _reason(path: Path, size: int, error: OSError) -> str:
    if error.errno not in _FULL:
        return str(error.strerror or error)
    existing = next(folder for folder in path.parents if folder.is_dir())
    left = shutil.disk_usage(existing).free
    return (
        f'{error.strerror}: {size / 1e6:.1f} MB are needed, {left / 1e6:.1f} MB are left in '
        f'{existing}. Files written before are intact: make room, then go on (training: --resume)'
    )
