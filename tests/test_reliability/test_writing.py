"""Writing: whole or not at all, on a full disk too (C1, C2, C4)."""

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.fileio import LocalBackend, get_file_backend, put_text

from hstpeft.delta import save_delta, writing
from hstpeft.delta.writing import write_file
from hstpeft.engine.saving import AtomicBackend, atomic_writes
from hstpeft.errors import UserError
from tests.support import tiny
from tests.support.deltas import SUFFIXES, delta

ONE_KEPT = ['default_hooks.checkpoint.max_keep_ckpts=1', 'train_cfg.val_interval=1']


def refused(leaf: Path, work_dir: Path, capsys, *flags, options=()) -> str:
    """Run a training that ends with one line and status 1; returns the line."""
    with pytest.raises(SystemExit) as exit_info:
        tiny.train(leaf, work_dir, *flags, options=options)
    assert exit_info.value.code == 1
    return capsys.readouterr().err.splitlines()[-1]


# --- C1, C2


class FullDisk:
    """A file system that takes nothing beyond the first so many files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, files: int) -> None:
        self.left, self.fsync = files, os.fsync
        monkeypatch.setattr(writing.os, 'fsync', self.call)

    def call(self, handle: int) -> None:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, 'No space left on device')
        self.fsync(handle)


def test_C1_a_full_disk_ends_training_with_one_line(task, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        FullDisk(patch, files=2)  # the first checkpoint and the pointer to it
        line = refused(task.hst, tmp_path / 'work', capsys, options=ONE_KEPT)
    assert line.startswith(
        f'train.py: error: {tmp_path}/work/epoch_2.pth cannot be written: No space'
    )
    assert 'MB are needed' in line and 'MB are left' in line and 'are intact' in line
    assert [path.name for path in (tmp_path / 'work').glob('*.pth')] == ['epoch_1.pth']
    assert not list((tmp_path / 'work').glob('.*'))
    tiny.train(task.hst, tmp_path / 'work', '--resume', options=ONE_KEPT)
    assert (tmp_path / 'work' / 'delta.pth').is_file()


@pytest.mark.skipif(not os.access('/dev/full', os.W_OK), reason='no /dev/full here')
def test_C1_the_kernel_says_that_a_disk_is_full():
    """No stub: a device that is always full."""
    with pytest.raises(UserError, match='/dev/full cannot be written: No space left on device'):
        write_file('/dev/full', b'much')


@pytest.mark.parametrize('suffix', SUFFIXES)
@pytest.mark.parametrize('failing', ['fsync', 'replace'])
def test_C1_a_failing_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch, suffix, failing):
    path = tmp_path / f'hst{suffix}'
    save_delta(delta(0), path)
    before = path.read_bytes()

    def full_disk(*args):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(writing.os, failing, full_disk)
    with pytest.raises(UserError, match='No space'):
        save_delta(delta(1), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_C2_a_folder_that_cannot_be_written_is_found_before_training(
    task, tmp_path, monkeypatch, capsys
):
    (tmp_path / 'file').write_text('in the way')
    line = refused(task.hst, tmp_path / 'file', capsys)
    assert f'--work-dir {tmp_path}/file is not writable' in line
    folder = f'default_hooks.checkpoint.out_dir={tmp_path}/file/more'
    line = refused(task.hst, tmp_path / 'work', capsys, options=[folder])
    assert f'the folder of checkpoints {tmp_path}/file/more/work is not writable' in line
    assert 'Epoch(train)' not in ''.join(capsys.readouterr())

    def read_only(*args, **kwargs):
        raise OSError(errno.EROFS, 'Read-only file system')

    monkeypatch.setattr(writing.tempfile, 'TemporaryFile', read_only)
    line = refused(task.hst, tmp_path / 'work', capsys)
    assert line.endswith('is not writable: Read-only file system')


# --- C4


def test_C4_the_order_is_write_sync_move_sync(tmp_path, monkeypatch):
    calls, path = [], tmp_path / 'file'

    def noted(name: str, describe: Callable) -> None:
        function = getattr(os, name)

        def call(*args):
            calls.append((name, describe(*args)))
            return function(*args)

        monkeypatch.setattr(os, name, call)

    noted('fsync', lambda handle: os.readlink(f'/proc/self/fd/{handle}'))
    noted('replace', lambda source, target: (str(source), str(target)))
    write_file(path, b'content')
    temporary = str(tmp_path / f'.file.{os.getpid()}.tmp')
    assert calls == [
        ('fsync', temporary), ('replace', (temporary, str(path))), ('fsync', str(tmp_path)),
    ]  # fmt: skip
    assert path.read_bytes() == b'content'


def test_C4_a_reader_never_sees_half_a_file(tmp_path):
    path, done, seen = tmp_path / 'file', threading.Event(), set()
    contents = [bytes([letter]) * 300_000 for letter in b'ab']
    write_file(path, contents[0])

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(40):
        write_file(path, contents[turn % 2])
    done.set()
    reader.join()
    assert seen <= set(contents)


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_C4_the_mode_is_that_of_any_other_file(tmp_path, suffix):
    before = os.umask(0o027)
    try:
        save_delta(delta(), tmp_path / f'hst{suffix}')
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / f'hst{suffix}').stat().st_mode) == 0o640


def test_C4_what_killed_writes_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    (tmp_path / '.epoch_1.pth.123.tmp').write_bytes(b'half')
    (tmp_path / '.notes.tmp').write_bytes(b'of somebody else')
    busy = tmp_path / '.delta.pth.456.tmp'
    with open(busy, 'wb') as file:
        writing.fcntl.flock(file, writing.fcntl.LOCK_EX)
        write_file(tmp_path / 'epoch_2.pth', b'whole')
        assert sorted(os.listdir(tmp_path)) == [busy.name, '.notes.tmp', 'epoch_2.pth']


def test_C4_links_are_written_through_and_devices_are_not_replaced(tmp_path):
    (tmp_path / 'target').write_text('old')
    (tmp_path / 'link').symlink_to('target')
    write_file(tmp_path / 'link', 'new')
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'target').read_text() == 'new'
    write_file(os.devnull, 'nothing')
    assert not Path(os.devnull).is_file()


def test_C4_mmengine_writes_atomically_while_a_runner_of_ours_works(tmp_path, monkeypatch):
    replaced = []
    replace = os.replace
    monkeypatch.setattr(os, 'replace', lambda a, b: (replaced.append(Path(b).name), replace(a, b)))
    with atomic_writes():
        assert type(get_file_backend('x')) is AtomicBackend
        get_file_backend(str(tmp_path)).put(b'1', tmp_path / 'a')
        put_text('2', str(tmp_path / 'b'))
    assert replaced == ['a', 'b']
    assert type(get_file_backend('x')) is LocalBackend
    put_text('3', str(tmp_path / 'c'))
    assert replaced == ['a', 'b']
