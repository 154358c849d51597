"""C3, and files of several runs in one folder: one training at a time, and nothing mixes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hstpeft.engine import latest_checkpoint
from hstpeft.engine.resume.work_dir import LOCK, locked, set_aside
from hstpeft.errors import UserError
from tests.support import tiny
from tests.support.paths import ROOT
from tests.support.resuming import assert_equal, cut_off, state, train

HOLD = (
    'import sys, time; from hstpeft.engine.resume.work_dir import locked\n'
    'with locked(sys.argv[1]):\n print("held", flush=True); time.sleep(600)'
)


@pytest.fixture
def holder(tmp_path):
    """Another process that trains in the folder, as far as the lock can tell."""
    process = subprocess.Popen(
        [sys.executable, '-c', HOLD, tmp_path / 'work'],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )  # fmt: skip
    assert 'held\n' in iter(process.stdout.readline, ''), 'behind what hosts print at import'
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.slow
def test_C3_a_second_training_in_a_folder_is_refused(task, tmp_path, holder, capsys):
    with pytest.raises(SystemExit, match='1'):
        tiny.train(task.hst, tmp_path / 'work')
    last = capsys.readouterr().err.splitlines()[-1]
    assert f'another training runs in it (process {holder.pid} on {socket.gethostname()})' in last
    assert [path.name for path in (tmp_path / 'work').iterdir()] == [LOCK], 'nothing is written'
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path / 'work'):  # a kill frees it
        pass


def test_C3_the_lock_is_not_inherited_and_frees_an_unused_folder(tmp_path):
    with locked(tmp_path / 'work'):
        if (child := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
    assert not (tmp_path / 'work').exists()
    try:
        with locked(tmp_path / 'work'):
            assert (tmp_path / 'work' / LOCK).read_text().startswith(f'process {os.getpid()} on')
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_C2_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='is not writable'), locked(tmp_path / 'file' / 'work'):
        pass


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text(name)


def test_files_of_an_earlier_run_are_moved_and_none_is_lost(tmp_path, capsys):
    mine = ('notes.txt', 'weights.pth', 'config.py')
    left = ('epoch_1.pth', 'iter_20.pth', 'best_acc_epoch_1.pth', 'interrupted.pth',
            'last_checkpoint', 'delta.pth', 'delta.safetensors')  # fmt: skip
    write(tmp_path, *mine, *left)
    target = set_aside(tmp_path)
    assert target.parent == tmp_path and target.name.startswith('earlier_')
    assert {path.name for path in target.iterdir()} == set(left)
    assert all((target / name).read_text() == name for name in left)
    assert {path.name for path in tmp_path.iterdir()} == {*mine, target.name}
    assert str(target) in capsys.readouterr().out
    assert set_aside(tmp_path) is None
    write(tmp_path, 'delta.pth')
    assert set_aside(tmp_path) != target, 'two within a second do not meet'


def test_what_is_newer_than_the_resumed_checkpoint_is_moved(tmp_path):
    write(tmp_path, 'epoch_1.pth', 'epoch_2.pth', 'epoch_10.pth', 'interrupted.pth', 'delta.pth')
    target = set_aside(tmp_path, tmp_path / 'epoch_2.pth')
    assert {path.name for path in target.iterdir()} == {'epoch_10.pth', 'interrupted.pth'}
    (target / 'interrupted.pth').rename(tmp_path / 'interrupted.pth')
    assert set_aside(tmp_path, tmp_path / 'interrupted.pth') is None
    elsewhere = tmp_path / 'other'
    elsewhere.mkdir()
    set_aside(tmp_path, elsewhere / 'epoch_1.pth')
    assert not list(tmp_path.glob('*.pth')), 'they are of a run that this one does not go on from'


def test_a_fresh_run_in_a_used_folder_cannot_be_resumed_from_the_old_one(trained, tmp_path):
    work_dir = cut_off(trained.work_dir, tmp_path / 'work', 'epoch_3.pth', 'delta.pth')
    options = ['randomness.seed=7', 'train_cfg.max_epochs=1']
    tiny.train(trained.task.hst, work_dir, options=options)
    (earlier,) = work_dir.glob('earlier_*')
    assert {path.name for path in earlier.iterdir()} == {'epoch_3.pth', 'delta.pth'}
    assert latest_checkpoint(work_dir)[0].name == 'epoch_1.pth'
    assert tiny.load(work_dir / 'delta.pth')['meta']['epoch'] == 1


def test_a_refused_run_moves_nothing(trained, tmp_path):
    work_dir = cut_off(trained.work_dir, tmp_path / 'work', 'epoch_3.pth', 'delta.pth')
    with pytest.raises(SystemExit, match='1'):
        tiny.train(trained.task.hst, work_dir, options=['train_dataloader.dataset.data_root=/none'])
    assert {path.name for path in work_dir.glob('*.pth')} == {'epoch_3.pth', 'delta.pth'}


def test_a_dry_run_touches_nothing_of_the_folder(trained, tmp_path):
    work_dir = cut_off(trained.work_dir, tmp_path / 'work', 'epoch_3.pth', 'delta.pth')
    (work_dir / 'dry_run').mkdir()
    write(work_dir / 'dry_run', 'iter_1.pth', 'old.txt')
    before = {path.name: path.read_bytes() for path in work_dir.glob('*.pth')}
    tiny.train(trained.task.hst, work_dir, '--dry-run')
    assert before == {path.name: path.read_bytes() for path in work_dir.glob('*.pth')}
    assert {path.name for path in work_dir.iterdir()} == {*before, 'dry_run'}
    assert tiny.load(work_dir / 'dry_run' / 'delta.pth')['meta']['iter'] == 1
    assert not (work_dir / 'dry_run' / 'old.txt').exists()


def test_a_dry_run_cannot_be_resumed(trained, tmp_path, capsys):
    with pytest.raises(SystemExit, match='1'):
        tiny.train(trained.task.hst, tmp_path, '--dry-run', '--resume')
    assert '--dry-run goes on from nothing' in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_that_torchrun_restarts_goes_on(leaves, tmp_path, monkeypatch):
    whole = train(leaves / 'hst_tiny.py', tmp_path / 'whole')
    work_dir = cut_off(whole, tmp_path / 'work', 'epoch_1.pth')
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', '3')
    train(leaves / 'hst_tiny.py', work_dir)
    assert_equal(whole, work_dir, 'epoch_3.pth')
    assert state(work_dir / 'epoch_2.pth')['epoch'] == 2
    assert not list(work_dir.glob('earlier_*'))
