"""Checkpoints of a run: one that is whole at every instant, and damage that is seen (R5, R6)."""

import errno
import os
import shutil
import signal
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.fileio import LocalBackend

from hstpeft.delta import load_checkpoint, writing
from hstpeft.engine import latest_checkpoint, saving
from hstpeft.engine.saving import AtomicBackend
from hstpeft.errors import UserError
from tests.support import tiny

ONE_KEPT = ['default_hooks.checkpoint.max_keep_ckpts=1', 'train_cfg.val_interval=1']
BEST = ['default_hooks.checkpoint.save_best=accuracy/top1', *ONE_KEPT]


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


@pytest.mark.slow
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
    monkeypatch.setattr('hstpeft.engine.runner.make_safe', lambda hook: hook)
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


@pytest.mark.parametrize('place', ['/data.pkl', '/data/', 'version'])
def test_R6_a_flipped_bit_is_seen_and_the_file_before_is_taken(trained, tmp_path, capsys, place):
    work_dir = shutil.copytree(trained.work_dir, tmp_path / 'work')
    newest = work_dir / 'epoch_3.pth'
    raw = bytearray(newest.read_bytes())
    with zipfile.ZipFile(newest) as archive:
        records = [r for r in archive.infolist() if place in r.filename]
        record = max(records, key=lambda record: record.file_size)
        start = raw.index(archive.read(record), record.header_offset)
    raw[start + record.file_size // 2] ^= 4
    newest.write_bytes(raw)
    assert latest_checkpoint(work_dir)[0].name == 'epoch_2.pth'
    said = ''.join(capsys.readouterr())
    assert said.count('skipped') == 1 and str(newest) in said


def test_R6_values_changed_with_a_right_checksum_are_seen(trained, tmp_path):
    """Not only the zip's CRC32 is looked at: somebody wrote the file anew."""
    for part, change in {
        'state_dict': lambda c: c['state_dict']['head.fc.bias'].add_(1e-3),
        'optimizer': lambda c: c['optimizer']['state'][0]['exp_avg'].add_(1e-3),
        'history': lambda c: c['message_hub']['log_scalars']['train/loss'].update(1.0),
        'meta': lambda c: c['meta'].update(epoch=7),
        'versions': lambda c: c['state_dict']._metadata['backbone'].update(version=9),
    }.items():
        content = torch.load(trained.work_dir / 'epoch_3.pth', weights_only=False)
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
