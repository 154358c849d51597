"""Files of runs: whole at every instant, checked when they are read, and small (R5, R6, C1, C2, C4)."""

import errno
import os
import shutil
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.fileio import LocalBackend, get_file_backend, put_text

from hstpeft.delta import load_checkpoint, save_delta, writing
from hstpeft.delta.writing import write_file
from hstpeft.engine import latest_checkpoint, saving
from hstpeft.engine.saving import AtomicBackend, atomic_writes
from hstpeft.errors import UserError
from tests.support import tiny
from tests.support.deltas import SUFFIXES, delta

ONE_KEPT = ['default_hooks.checkpoint.max_keep_ckpts=1', 'train_cfg.val_interval=1']
BEST = ['default_hooks.checkpoint.save_best=accuracy/top1', *ONE_KEPT]


def refused(leaf: Path, work_dir: Path, capsys, *flags, options=()) -> str:
    """Run a training that ends with one line and status 1; returns the line."""
    with pytest.raises(SystemExit) as exit_info:
        tiny.train(leaf, work_dir, *flags, options=options)
    assert exit_info.value.code == 1
    return capsys.readouterr().err.splitlines()[-1]


# --- R5


def train_with_slow_writes(leaf: Path, work_dir: Path, killed_at: int) -> None:
    """Train and die within a write: half of the file is there, and it takes long."""
    writes, write = [0], writing.os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            writes[0] += 1
            if writes[0] == killed_at:
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
        write(handle)

    writing.os.fsync = fsync
    tiny.train(leaf, work_dir, options=BEST)


# Of each epoch the checkpoint, the pointer to it, the best, the checkpoint again; then the delta.
@pytest.mark.slow
@pytest.mark.parametrize('killed_at', [3, 4, 6, 7, 8])
def test_R5_killed_within_a_write_the_run_goes_on(task, tmp_path, killed_at):
    work_dir = tmp_path / 'work'
    status = tiny.run_process(
        train_with_slow_writes, task.hst, work_dir, killed_at, log=tmp_path / 'log'
    )
    assert status == -signal.SIGKILL
    assert len(list(work_dir.glob('.*.tmp'))) == 1
    path, _ = latest_checkpoint(work_dir)
    pointer = Path((work_dir / 'last_checkpoint').read_text())
    assert load_checkpoint(pointer)['meta']['epoch'] <= load_checkpoint(path)['meta']['epoch']
    tiny.train(task.hst, work_dir, '--resume', options=BEST)
    assert not list(work_dir.glob('.*.tmp'))
    assert latest_checkpoint(work_dir)[0].name == 'epoch_3.pth'


class Watch:
    """Looks at a work folder before and after each change that `os` makes to a file in it."""

    def __init__(self, work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.work_dir, self.begun, self.looks = work_dir, False, 0
        for name in ('replace', 'remove', 'unlink', 'fsync'):
            monkeypatch.setattr(os, name, self.watched(getattr(os, name)))

    def watched(self, function: Callable) -> Callable:
        def call(*args, **kwargs):
            self.look()
            function(*args, **kwargs)
            self.look()

        return call

    def look(self) -> None:
        files = list(self.work_dir.glob('epoch_*.pth'))
        self.begun = self.begun or bool(files)
        if self.begun:
            self.looks += 1
            assert latest_checkpoint(self.work_dir) is not None
            pointer = self.work_dir / 'last_checkpoint'
            assert not pointer.exists() or Path(pointer.read_text()).is_file()


@pytest.mark.parametrize('plain', [False, True], ids=['ours', "mmengine's by name"])
def test_R5_at_every_instant_a_valid_file_exists(task, tmp_path, monkeypatch, plain):
    work_dir = tmp_path / 'work'
    watch = Watch(work_dir, monkeypatch)
    kind = ['default_hooks.checkpoint.type=CheckpointHook'] if plain else []
    tiny.train(task.hst, work_dir, options=[*BEST, *kind])
    assert watch.looks > 20
    left = sorted(path.name for path in work_dir.glob('*.pth'))
    assert left[1:] == ['delta.pth', 'epoch_3.pth'] and left[0].startswith('best_')
    assert Path((work_dir / 'last_checkpoint').read_text()).name == 'epoch_3.pth'


def test_R5_without_our_hook_there_are_instants_with_none(task, tmp_path, monkeypatch):
    """The control: what the watch sees is the work of SafeCheckpointHook."""
    monkeypatch.setattr('hstpeft.engine.runner.safe', lambda hook: hook)
    watch = Watch(tmp_path / 'work', monkeypatch)
    with pytest.raises(AssertionError):
        tiny.train(
            task.hst,
            tmp_path / 'work',
            options=[*ONE_KEPT, 'default_hooks.checkpoint.type=CheckpointHook'],
        )
    assert watch.begun


def test_R5_a_file_that_cannot_be_deleted_is_a_warning(task, tmp_path, monkeypatch, capsys):
    def busy(self, path):
        raise OSError(errno.EBUSY, 'Device or resource busy')

    monkeypatch.setattr(AtomicBackend, 'remove', busy)
    tiny.train(task.hst, tmp_path, options=ONE_KEPT)
    out = ''.join(capsys.readouterr())
    assert 'epoch_1.pth is no longer needed, but cannot be removed: Device or resource' in out
    assert len(list(tmp_path.glob('epoch_*.pth'))) == 3


def test_R5_the_best_file_that_was_written_again_is_kept(tmp_path):
    path, other = tmp_path / 'best_epoch_1.pth', tmp_path / 'epoch_1.pth'
    storage = saving._Postponed(LocalBackend())
    for file in (path, other):
        file.write_text('new')
        storage.remove(str(file))
    storage.remove_now({str(path), None}, pytest.fail)
    assert path.exists() and not other.exists()


def test_R5_a_stray_name_is_no_checkpoint(trained, tmp_path):
    work_dir = shutil.copytree(trained.work_dir, tmp_path / 'work')
    shutil.copy(trained.delta, work_dir / 'epoch_best.pth')
    assert latest_checkpoint(work_dir)[0].name == 'epoch_3.pth'


# --- R6


@pytest.mark.parametrize('place', [0.3, 0.6, 0.9])
def test_R6_a_flipped_bit_is_seen_and_the_file_before_is_taken(trained, tmp_path, capsys, place):
    work_dir = shutil.copytree(trained.work_dir, tmp_path / 'work')
    newest = work_dir / 'epoch_3.pth'
    raw = bytearray(newest.read_bytes())
    raw[int(place * len(raw))] ^= 4
    newest.write_bytes(raw)
    assert latest_checkpoint(work_dir)[0].name == 'epoch_2.pth'
    said = ''.join(capsys.readouterr())
    assert said.count('skipped') == 1 and str(newest) in said


def test_R6_values_changed_with_a_right_checksum_are_seen(trained, tmp_path):
    """Not only the zip's CRC32 is looked at: somebody wrote the file anew."""
    content = torch.load(trained.work_dir / 'epoch_3.pth', weights_only=False)
    for part, change in {
        'state_dict': lambda c: c['state_dict']['head.fc.bias'].add_(1e-3),
        'optimizer': lambda c: c['optimizer']['state'][0]['exp_avg'].add_(1e-3),
        'history': lambda c: c['message_hub']['log_scalars']['train/loss'].update(1.0),
        'meta': lambda c: c['meta'].update(epoch=7),
        'versions': lambda c: c['state_dict']._metadata['backbone'].update(version=9),
    }.items():
        change(content)
        torch.save(content, tmp_path / f'{part}.pth')
        with pytest.raises(UserError, match=r'is damaged: .* take another copy'):
            load_checkpoint(tmp_path / f'{part}.pth')


def test_R6_a_hook_of_the_user_that_comes_last_is_sealed_too(task, tmp_path):
    (tmp_path / 'leaf.py').write_text(
        f"_base_ = '{task.hst}'\n"
        "custom_hooks = [dict(type='hstpeft.SealHook'), dict(type='LateHook', priority='LOWEST')]\n"
        "custom_imports = dict(imports=['tests.support.late_hook'])\n"
    )
    tiny.train(tmp_path / 'leaf.py', tmp_path / 'work', options=['train_cfg.max_epochs=1'])
    assert load_checkpoint(tmp_path / 'work' / 'epoch_1.pth')['late'] == [1, 2]


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
