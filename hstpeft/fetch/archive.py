"""Unpacking of archives that may be hostile: tar (plain, gzip, bzip2, xz) and zip."""

import bz2
import contextlib
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from hstpeft.errors import UserError

MAX_BYTES = 2**40
MAX_MEMBERS = 5_000_000
MAX_RATIO = 200
"""Bytes that an archive may unpack to for each of its own: images and JSON stay far below."""
_FREE_BYTES = 10 * 2**20  # whatever the ratio: a few empty masks shrink to nothing
_MAX_PATH = 1024
_OPENERS = {b'\x1f\x8b': gzip.open, b'BZh': bz2.open, b'\xfd7zXZ\x00': lzma.open}
_DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError,
    NotImplementedError, RuntimeError, ValueError,
)  # fmt: skip


class _Member(NamedTuple):
    """A file or folder of an archive; `content` is None for a folder."""

    name: str
    size: int
    content: IO[bytes] | None


def extract(
    archive: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    max_bytes: int = MAX_BYTES,
    max_members: int = MAX_MEMBERS,
    max_ratio: float = MAX_RATIO,
) -> Path:
    """Unpack an archive into a new folder, which appears only when all of it is there.

    Args:
        archive: A tar, plain or compressed, or a zip.
        folder: To be made; it must not exist, or be empty.
        max_bytes: Most bytes that all files together may have.
        max_members: Most files and folders.
        max_ratio: Most bytes that may come out for each byte of the archive.

    Returns:
        The folder.

    Raises:
        UserError: The archive is damaged or too large, or holds anything but plain files and
            folders below ``folder``: absolute paths, ``..``, links and devices are refused.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f'folder {folder} exists already: remove it, or unpack into another one')
    if not archive.is_file():
        raise UserError(f'archive {archive} does not exist')
    limit = int(min(max_bytes, _FREE_BYTES + max_ratio * archive.stat().st_size))
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', suffix='.tmp', dir=folder.parent))
    try:
        unpacked = temporary / folder.name  # with the usual rights, which `temporary` has not
        unpacked.mkdir()
        with _open(archive, limit) as members:
            _write(members, unpacked, limit, max_members)
        os.replace(unpacked, folder)
    except UserError as error:
        raise UserError(f'archive {archive} is refused: {error}') from error
    except _DAMAGED as error:
        raise UserError(f'archive {archive} cannot be unpacked: {error}') from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write(members: Iterator[_Member], folder: Path, limit: int, max_members: int) -> None:
    total = 0
    for count, member in enumerate(members, 1):
        if count > max_members:
            raise UserError(f'it has more than {max_members:,} members')
        total += member.size
        _check_size(total, limit)
        target = folder.joinpath(*_parts(member.name))
        if member.content is None:
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.content, open(target, 'xb') as file:
            shutil.copyfileobj(member.content, file)
            if file.tell() != member.size:
                raise UserError(f'{member.name!r} has another size than it says')


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise UserError(
            f'it unpacks to more than {limit:,} bytes, as no honest archive of its size'
        )


def _parts(name: str) -> list[str]:
    """Split the name of a member; raise unless it stays below the folder it is unpacked to."""
    parts = [part for part in name.rstrip('/').split('/') if part != '.']
    is_plain = name.isprintable() and not set(name) & set('\\:') and len(name) <= _MAX_PATH
    if not is_plain or not all(parts) or '..' in parts:
        raise UserError(f'{name[:200]!r} is no path below the folder')
    return parts


@contextlib.contextmanager
def _open(archive: Path, limit: int) -> Iterator[Iterator[_Member]]:
    with archive.open('rb') as content:
        start = content.read(6)
    if start.startswith(b'PK'):
        with zipfile.ZipFile(archive) as file:
            yield _zip_members(file)
        return
    opener = next((f for magic, f in _OPENERS.items() if start.startswith(magic)), open)
    # A stream, so that a header cannot ask for more memory than the limit either.
    with (
        opener(archive, 'rb') as content,
        tarfile.open(fileobj=_Limited(content, limit), mode='r|') as file,
    ):
        yield _tar_members(file)


def _tar_members(file: tarfile.TarFile) -> Iterator[_Member]:
    for info in file:
        if not info.isreg() and not info.isdir():
            kind = 'a link' if info.issym() or info.islnk() else 'neither a file nor a folder'
            raise UserError(f'{info.name!r} is {kind}')
        _parts(info.name)
        # Python's own filter as well, after our stricter checks.
        tarfile.data_filter(info, os.devnull)
        content = None if info.isdir() else file.extractfile(info)
        yield _Member(info.name, info.size, content)


def _zip_members(file: zipfile.ZipFile) -> Iterator[_Member]:
    for info in file.infolist():
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            kind = 'a link' if stat.S_ISLNK(mode) else 'neither a file nor a folder'
            raise UserError(f'{info.filename!r} is {kind}')
        # zipfile cuts names at a zero byte and replaces the system's separators.
        if info.orig_filename != info.filename:
            raise UserError(f'{info.orig_filename!r} is no path below the folder')
        _parts(info.filename)
        content = None if info.is_dir() else file.open(info)
        yield _Member(info.filename, info.file_size, content)


class _Limited:
    """A stream that refuses to give more than a limit."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self.stream = stream
        # Headers and padding, a kilobyte a member, come on top of the files.
        self.left = limit + 2**20 + limit // 2

    def read(self, size: int) -> bytes:
        """Read up to a number of bytes."""
        if size > self.left:
            raise UserError('it unpacks to more bytes than an honest archive of its size')
        data = self.stream.read(size)
        self.left -= len(data)
        return data
