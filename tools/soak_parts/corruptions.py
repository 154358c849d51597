"""Damaged deltas must be refused, or read as what they were.

A delta is damaged in one of many ways, somewhere or in what holds its structure (the pickle and the
directory of a ``.pth``, the header of a ``.safetensors``), and read in a process of its own, which may
crash, hang or take memory without harm to the others.
"""

import io
import multiprocessing
import random
import resource
import zipfile
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from hstpeft.delta import load_checkpoint, save_delta
from hstpeft.errors import UserError
from tools.soak_parts import Advance
from tools.soak_parts.checks import differences
from tools.soak_parts.kills import undisturbed
from tools.soak_parts.toy import Variant, write_toy

SUFFIXES = ('.pth', '.safetensors')
OUTCOMES = ('refused', 'harmless')
HANG_SECONDS = 30
# Beyond what a process has before: of memory it uses, and of what it may ask for.
MAX_RESIDENT, MAX_ADDRESS = 200 * 2**20, 4 * 2**30

Span = tuple[int, int]


def run(count: int, seed: int, folder: Path, advance: Advance) -> dict[str, Any]:
    """Damage and read deltas, ``count`` of each format.

    Args:
        count: Number of damaged files per format.
        seed: Decides the damages.
        folder: Empty or new; the files of failures are left in it.
        advance: Called after each file, with its story if it failed.

    Returns:
        ``count`` of all, ``failures`` (each with format, number, damage and error), and how many
        were ``refused`` and how many ``harmless``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outcomes, failures = Counter(), []
    for suffix in SUFFIXES:
        original = make_delta(folder, suffix)
        whole = original.read_bytes()
        spans = structure(whole, suffix)
        reader = Reader(original)
        for index in range(count):
            rng = random.Random(f'{suffix} {seed} {index}')
            damaged = whole
            while damaged == whole:  # zeros over zeros, a block swapped with itself
                damaged, what = damage(whole, spans, rng)
            path = folder / f'damaged_{index}{suffix}'
            path.write_bytes(damaged)
            outcome = reader.read(path)
            failure = None
            if outcome in OUTCOMES:
                outcomes[outcome] += 1
                path.unlink()
            else:
                failure = dict(file=path.name, damage=what, error=outcome)
                failures.append(failure)
            advance(failure)
        reader.close()
    return dict(count=count * len(SUFFIXES), failures=failures, **outcomes)


def make_delta(folder: Path, suffix: str) -> Path:
    """Train the toy, if this has not been done, and return its delta in a format."""
    home = folder / 'toy'
    path = home / f'undisturbed_{Variant().name}' / 'work' / 'delta.pth'
    if not path.is_file():
        home.mkdir()
        write_toy(home)
        undisturbed(home, Variant())
    if suffix != path.suffix:
        save_delta(load_checkpoint(path), path.with_suffix(suffix))
    return path.with_suffix(suffix)


def structure(whole: bytes, suffix: str) -> list[Span]:
    """Return where a file holds its structure, as (start, end) of bytes."""
    if suffix == '.safetensors':
        return [(0, 8 + int.from_bytes(whole[:8], 'little'))]
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        infos = archive.infolist()
        pickled = next(info for info in infos if info.filename.endswith('data.pkl'))
        start = pickled.header_offset
        headers = [(info.header_offset, info.header_offset + 64) for info in infos]
        return [
            (start, start + pickled.file_size + 128),
            (archive.start_dir, len(whole)),
            *headers,
        ]


def damage(whole: bytes, spans: list[Span], rng: random.Random) -> tuple[bytes, str]:
    """Damage a file in one way.

    Args:
        whole: Its bytes.
        spans: Where its structure lies: half of the damages start there.
        rng: Decides what is done, where, and to how many bytes.

    Returns:
        The damaged bytes, and what was done.
    """
    start, end = rng.choice(spans) if rng.random() < 0.5 else (0, len(whole))
    at = rng.randrange(start, min(end, len(whole)))
    size = min(rng.choice((1, 2, 4, 8, 64, 512, 4096)), len(whole) - at)
    to = rng.randrange(len(whole) - size + 1)
    data, block = bytearray(whole), whole[at : at + size]
    name = rng.choice(DAMAGES)
    if name == 'flip a bit':
        data[at] ^= 1 << rng.randrange(8)
    elif name == 'change a byte':
        data[at] ^= rng.randrange(1, 256)
    elif name == 'change bytes':
        for _ in range(rng.randint(2, 16)):
            data[rng.randrange(at, at + size)] = rng.randrange(256)
    elif name in ('zeros', 'ones'):
        data[at : at + size] = (b'\0' if name == 'zeros' else b'\xff') * size
    elif name == 'truncate':
        del data[at:]
    elif name == 'remove':
        del data[at : at + size]
    elif name == 'insert':
        data[at:at] = rng.randbytes(size)
    elif name == 'duplicate':
        data[at:at] = block
    elif name == 'append':
        data += rng.randbytes(size)
    else:  # swap
        data[at : at + size], data[to : to + size] = whole[to : to + size], block
    return bytes(data), f'{name}: {size} bytes at {at}'


DAMAGES = (
    *('flip a bit', 'change a byte', 'change bytes', 'zeros', 'ones', 'truncate'),
    *('remove', 'insert', 'duplicate', 'append', 'swap'),
)


class Reader:
    """A process that reads files and compares them with the original; a new one after a crash.

    Args:
        original: The file that the others were made of.
    """

    def __init__(self, original: Path) -> None:
        self.original = original
        self._start()

    def read(self, path: Path) -> str:
        """Return ``refused``, ``harmless``, or what was wrong."""
        try:
            self.connection.send(path)
            if self.connection.poll(HANG_SECONDS):
                return self.connection.recv()
            outcome = f'hangs for {HANG_SECONDS} s'
        except (EOFError, ConnectionError):
            self.process.join()
            outcome = f'crashes with status {self.process.exitcode}'
        self.close()
        self._start()
        return outcome

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.connection.close()

    def _start(self) -> None:
        context = multiprocessing.get_context('forkserver')
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.original))
        self.process.start()
        theirs.close()


def _serve(connection: Connection, original: Path) -> None:
    torch.set_num_threads(1)
    expected = load_checkpoint(original)
    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_ADDRESS, used + MAX_ADDRESS))
    while True:
        try:
            path = connection.recv()
        except EOFError:
            return
        before = _peak_bytes()
        outcome = read(path, expected)
        grown = _peak_bytes() - before
        connection.send(f'takes {grown / 1e6:.0f} MB' if grown > MAX_RESIDENT else outcome)


def read(path: Path, expected: dict[str, Any]) -> str:
    """Read a damaged file; returns ``refused``, ``harmless``, or what was wrong."""
    try:
        found = load_checkpoint(path)
    except UserError as error:
        return 'refused' if '\n' not in str(error) else f'not one line: {error}'
    except BaseException as error:  # whatever else it is, the user sees a traceback
        return f'{type(error).__name__}: {error}'
    changed = differences(found, expected, 'checkpoint')
    return f'accepted, though {len(changed)} values differ: {changed[0]}' if changed else 'harmless'


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
