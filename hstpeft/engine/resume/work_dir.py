"""The work folder of a training: it holds one training at a time, and the files of one run."""

import errno
import fcntl
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.logging import print_log

from hstpeft.delta.writing import check_writable
from hstpeft.engine.resume.signals import INTERRUPTED
from hstpeft.errors import UserError

LOCK = 'training.lock'
NUMBERED = re.compile(r'(?:epoch|iter)_(\d+)\.pth')
# What a training leaves besides its logs.
_RESULTS = ('epoch_*.pth', 'iter_*.pth', 'best_*.pth', INTERRUPTED, 'last_checkpoint', 'delta.*')


@contextmanager
def locked(work_dir: str | Path) -> Iterator[None]:
    """Hold the lock of a work folder, which is made if need be; the kernel frees it however we die.

    It keeps out other trainings only: reading and testing go on.

    Raises:
        UserError: Another training holds it, or the folder cannot be written.
    """
    work_dir = Path(work_dir)
    made = not work_dir.exists()
    check_writable(work_dir, '--work-dir')
    path = work_dir / LOCK
    # A lock of `lockf` is not inherited by a loader's workers.
    with open(path, 'a+') as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                raise UserError(
                    f'--work-dir {work_dir}: another training runs in it '
                    f'({file.read().strip()}): wait for it, or take another folder'
                ) from None
            # Some shared file systems have no locks at all.
            print_log(f'{path} cannot be locked: {error}', logger='current', level=logging.WARNING)
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
            if made and os.listdir(work_dir) == [LOCK]:  # refused before it began
                shutil.rmtree(work_dir)


def set_aside(work_dir: str | Path, resumed: str | Path | None = None) -> Path | None:
    """Move what an earlier run left in a work folder into a folder inside it, lest runs be mixed.

    Args:
        work_dir: The work folder.
        resumed: The checkpoint that training goes on from. If it lies in the work folder, it, those
            before it, the best ones and the delta stay.

    Returns:
        The folder that files were moved to; None if there were none.
    """
    work_dir = Path(work_dir)
    found = {path for pattern in _RESULTS for path in work_dir.glob(pattern) if path.is_file()}
    if resumed is not None and Path(resumed).resolve().parent == work_dir.resolve():
        found = {path for path in found if _is_after(path.name, Path(resumed).name)}
    if not found:
        return None
    target = work_dir / time.strftime('earlier_%Y%m%d_%H%M%S')
    while target.exists():
        target = target.with_name(f'{target.name}_')
    target.mkdir()
    for path in sorted(found):
        os.replace(path, target / path.name)
    print_log(f'{len(found)} files of an earlier run in {work_dir} were moved to {target}')
    return target


def empty(work_dir: str | Path) -> None:
    """Remove what an earlier dry run left in its folder, but for the lock that is held."""
    for path in Path(work_dir).iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _is_after(name: str, resumed: str) -> bool:
    """Whether a file was saved after the checkpoint that is resumed, or may have been."""
    if name == resumed or resumed == INTERRUPTED:
        return False
    if name == INTERRUPTED:
        return True
    number, own = NUMBERED.fullmatch(name), NUMBERED.fullmatch(resumed)
    return bool(number and own and int(number[1]) > int(own[1]))
