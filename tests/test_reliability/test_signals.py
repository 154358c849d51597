"""R8: a signal finishes the step, saves and ends with a status of its own; a second ends at once."""

import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from hstpeft.engine import latest_checkpoint
from hstpeft.engine.resume.signals import SIGNALS
from hstpeft.errors import InterruptedRun, one_line_errors
from tests.support import tiny
from tests.support.resuming import WORKERS, assert_equal, state, train

SIGNALLED = """
_base_ = '{leaf}'
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='SignalHook', place='{place}', step={step}, signum={signum}, group={group}),
]
"""
LAST = f'epoch_{tiny.EPOCHS}.pth'


@HOOKS.register_module()
class SignalHook(Hook):
    """Send a signal to the process, or to all of its group, in the middle of a step."""

    def __init__(self, place: str, step: int, signum: int, group: bool) -> None:
        self.place, self.step, self.signum, self.group = place, step, signum, group

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Send it before the step, which must be finished."""
        if runner.iter != self.step:
            return
        if self.place == 'train' or (self.place == 'second' and runner.rank == 1):
            self._send()

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Send it within the first validation, which must be finished."""
        if self.place == 'val' and runner.iter == self.step and batch_idx == 0:
            self._send()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Send a second one while the first is pending; or wait for it to come."""
        if self.place == 'twice' and runner.iter == self.step:
            children = [p.pid for p in multiprocessing.active_children()]
            print('children', *children, flush=True)
            self._send()
            self._send()

    def _send(self) -> None:
        if self.group:
            # From outside, as a scheduler does: torch's workers look at who has sent it.
            command = ['kill', f'-{self.signum}', '--', f'-{os.getpgrp()}']
            subprocess.run(command, check=True, start_new_session=True)
        else:
            os.kill(os.getpid(), self.signum)
        time.sleep(0.2)  # for those to whom else it is sent


def leaf_with(leaves: Path, folder: Path, leaf: str, **where: object) -> Path:
    path = folder / 'signalled.py'
    path.write_text(SIGNALLED.format(leaf=leaves / f'{leaf}.py', **where))
    return path


@pytest.fixture(scope='module')
def unbroken(leaves, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('unbroken')
    return train(leaves / 'hst_tiny.py', work_dir)


@pytest.mark.parametrize(
    'signum',
    [SIGNALS[0], *(pytest.param(number, marks=pytest.mark.slow) for number in SIGNALS[1:])],
    ids=lambda number: number.name,
)
def test_R8_a_signal_finishes_the_step_saves_and_exits_with_75(
    leaves, unbroken, tmp_path, capsys, signum
):
    leaf = leaf_with(
        leaves, tmp_path, 'hst_tiny', place='train', step=4, signum=int(signum), group=False
    )
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(SystemExit) as exit_info:
        train(leaf, tmp_path / 'work')
    assert exit_info.value.code == InterruptedRun.exit_status == 75
    assert before == [signal.getsignal(number) for number in SIGNALS], 'handlers are restored'
    saved = tmp_path / 'work' / 'interrupted.pth'
    assert capsys.readouterr().err.splitlines()[-1] == (
        f'train.py: error: {signum.name}: saved after step 5 as {saved}; '
        '--resume goes on from there'
    )
    assert (state(saved)['epoch'], state(saved)['iter']) == (1, 5)
    assert not (tmp_path / 'work/delta.pth').exists()
    assert latest_checkpoint(tmp_path / 'work')[0] == saved, 'it is the newest'
    train(leaves / 'hst_tiny.py', tmp_path / 'work', '--resume')
    assert_equal(unbroken, tmp_path / 'work', LAST)
    assert not saved.exists(), 'the next checkpoint took its place'


@pytest.mark.parametrize(
    ('leaf', 'step', 'last'),
    [
        pytest.param('accumulated', 4, 'epoch_3.pth', marks=pytest.mark.slow),
        pytest.param('infinite', 4, 'iter_9.pth', marks=pytest.mark.slow),
    ],
)
def test_R8_an_interrupted_run_goes_on_bit_equal(leaves, tmp_path, leaf, step, last):
    whole = train(leaves / f'{leaf}.py', tmp_path / 'whole')
    signalled = leaf_with(
        leaves, tmp_path, leaf, place='train', step=step, signum=int(signal.SIGTERM), group=False
    )
    with pytest.raises(SystemExit, match='75'):
        train(signalled, tmp_path / 'work', options=[WORKERS])
    for path in (tmp_path / 'work').glob('iter_*.pth'):
        path.unlink()
    train(leaves / f'{leaf}.py', tmp_path / 'work', '--resume')
    assert_equal(whole, tmp_path / 'work', last)


def test_R8_a_signal_within_a_validation_lets_it_end(leaves, unbroken, tmp_path, capsys):
    leaf = leaf_with(
        leaves, tmp_path, 'ema', place='val', step=3, signum=int(signal.SIGTERM), group=False
    )
    with pytest.raises(SystemExit, match='75'):
        train(leaf, tmp_path / 'work', options=['train_cfg.val_interval=1'])
    assert 'accuracy/top1' in capsys.readouterr().out
    first, saved = (state(tmp_path / 'work' / name) for name in ('epoch_1.pth', 'interrupted.pth'))
    for part in ('state_dict', 'ema_state_dict', 'optimizer', 'epoch', 'iter'):
        assert tiny.same(first[part], saved[part]), part


@pytest.mark.slow
def test_R8_two_processes_stop_behind_the_same_step(leaves, tmp_path):
    """One of them was signalled, between two optimiser steps; resumed they end as unbroken."""
    signalled = leaf_with(
        leaves, tmp_path, 'accumulated', place='second', step=3, signum=15, group=False
    )
    calm = leaves / 'accumulated.py'
    for number, (leaf, name, flags) in enumerate(
        [(calm, 'whole', []), (signalled, 'work', []), (calm, 'work', ['--resume'])]
    ):
        log = tmp_path / f'log{number}'
        calls = [(train_as_rank, r, number, leaf, tmp_path / name, flags) for r in range(2)]
        expected = 75 if leaf == signalled else 0
        assert tiny.run_processes(calls, log=log) == [expected] * 2, log.read_text()
        if leaf == signalled:
            saved = tiny.load(tmp_path / 'work/interrupted.pth')
            assert saved['meta']['iter'] == 4 and saved['gradients']
    states = [tiny.load(tmp_path / n / 'delta.pth')['state_dict'] for n in ('whole', 'work')]
    first = tiny.load(tmp_path / 'whole/epoch_1.pth')['state_dict']
    assert tiny.spread(states[0], first) > 1e-3, 'the training must move the weights'
    assert tiny.spread(*states) < 1e-6


def train_as_rank(rank: int, job: int, leaf: Path, work_dir: Path, flags: list[str]) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(20000 + (os.getppid() * 3 + job) % 20000),
    )  # fmt: skip
    train(leaf, work_dir, '--launcher', 'pytorch', *flags)


def alive(pid: int) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_R8_a_second_signal_ends_at_once_and_leaves_no_workers(leaves, tmp_path):
    leaf = leaf_with(
        leaves, tmp_path, 'hst_tiny', place='twice', step=1, signum=int(signal.SIGTERM), group=False
    )
    log = tmp_path / 'log'
    status = tiny.run_process(train_with_workers, leaf, tmp_path / 'work', log=log)
    assert status == 128 + signal.SIGTERM, log.read_text()
    assert not list((tmp_path / 'work').glob('*.pth'))
    children = next(line for line in log.read_text().splitlines() if line.startswith('children'))
    pids = [int(pid) for pid in children.split()[1:]]
    assert len(pids) == 2
    deadline = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))


@pytest.mark.slow
def test_R8_a_signal_to_all_processes_of_a_job_saves_too(leaves, unbroken, tmp_path):
    """As a terminal's Ctrl-C and a scheduler do: the loader's workers get it as well."""
    for number, signum in enumerate((signal.SIGINT, signal.SIGTERM)):
        leaf = leaf_with(
            leaves, tmp_path, 'hst_tiny', place='train', step=1, signum=int(signum), group=True
        )
        log, work_dir = tmp_path / f'log{number}', tmp_path / f'work{number}'
        status = tiny.run_process(train_as_group, leaf, work_dir, log=log)
        assert status == 75, log.read_text()
        assert 'Traceback' not in log.read_text()
        assert state(work_dir / 'interrupted.pth')['iter'] == 2


def train_with_workers(leaf: Path, work_dir: Path) -> None:
    train(leaf, work_dir, options=[WORKERS])


def train_as_group(leaf: Path, work_dir: Path) -> None:
    os.setpgrp()
    train_with_workers(leaf, work_dir)


def test_R8_ctrl_c_outside_a_training_is_one_line(capsys):
    with pytest.raises(SystemExit) as end, one_line_errors('test.py'):
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err == 'test.py: interrupted, there was nothing to save\n'
