"""The launchers: what they are given and what they hand on; jobs are in tests/test_reliability."""

import os
import sys
from pathlib import Path

import pytest
import torch

from hstpeft.engine import init_process_group
from tests.support import tiny
from tests.support.launchers import TOOLS, finish, start
from tools.test import main as run_test

GROUP = dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT='0')


def train_and_test_alone(config: Path, folder: Path) -> None:
    os.environ.update(GROUP)
    launcher = ('--launcher', 'pytorch')
    tiny.train(config, folder, *launcher, options=['train_cfg.max_epochs=1'])
    assert gloo_threads() == []
    run_test(tiny.arguments(config, folder, folder / 'delta.pth', *launcher))
    assert gloo_threads() == []
    init_process_group('pytorch')
    torch.distributed.barrier()  # A thread has its name once it works.
    assert gloo_threads(), 'gloo calls its threads otherwise: this test would see none'


def gloo_threads() -> list[str]:
    names = [(thread / 'comm').read_text() for thread in Path('/proc/self/task').iterdir()]
    return [name for name in names if 'gloo' in name]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='gloo is for machines without a GPU')
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
def test_no_thread_of_gloo_outlives_a_job(task, tmp_path):
    """One that is still at work when the interpreter ends aborts the process, now and then."""
    log = tmp_path / 'log'
    status = tiny.run_process(train_and_test_alone, task.hst, tmp_path / 'work', log=log)
    assert status == 0, log.read_text()


WRONG = {
    'dist_train.sh': [[], ['c.py'], ['c.py', '0'], ['c.py', 'two'], ['c.py', '--resume']],
    'dist_test.sh': [[], ['c.py'], ['c.py', 'd.pth'], ['c.py', 'd.pth', 'x']],
    'slurm_train.sh': [[], ['partition', 'job', 'c.py']],
}


@pytest.mark.parametrize('script', WRONG)
def test_wrong_usage_is_status_2(script):
    for arguments in WRONG[script]:
        status, out, err = finish(start(script, *arguments))
        assert (status, out) == (2, ''), arguments
        assert err.startswith('usage: ') and script in err and len(err.splitlines()) == 1


def test_several_machines_need_a_common_port_and_address():
    status, _, err = finish(start('dist_train.sh', 'c.py', 2, NNODES='2'))
    assert status == 2
    assert err == 'NNODES=2 needs the same MASTER_ADDR and PORT on every machine\n'


@pytest.fixture
def recorded(tmp_path):
    """Put a program on PATH that records how it was called, and read the record."""
    record = tmp_path / 'record'

    def make(name: str) -> dict[str, str]:
        fake = tmp_path / 'bin' / name
        fake.parent.mkdir(exist_ok=True)
        fake.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" "PYTHONPATH=$PYTHONPATH" >"{record}"\n')
        fake.chmod(0o755)
        return {'PATH': f'{fake.parent}:{os.environ["PATH"]}'}

    return make, lambda: record.read_text().splitlines()


def test_slurm_passes_resources_and_arguments(recorded):
    make, read = recorded
    variables = dict(
        GPUS='16', GPUS_PER_NODE='4', CPUS_PER_TASK='3', SRUN_ARGS='--time=1 --qos=low'
    )
    arguments = ['part', 'my job', 'c d.py', 'w d', '--resume', '--cfg-options', 'a=[1, 2]']
    assert finish(start('slurm_train.sh', *arguments, **variables, **make('srun')))[0] == 0
    assert read()[:-1] == [
        '-p', 'part', '--job-name=my job', '--gres=gpu:4', '--ntasks=16', '--ntasks-per-node=4',
        '--cpus-per-task=3', '--kill-on-bad-exit=1', '--time=1', '--qos=low', sys.executable, '-u',
        str(TOOLS / 'train.py'), 'c d.py', '--work-dir', 'w d', '--launcher', 'slurm', '--resume',
        '--cfg-options', 'a=[1, 2]',
    ]  # fmt: skip
    assert read()[-1].startswith(f'PYTHONPATH={TOOLS}/..')


def test_slurm_asks_for_8_gpus_by_default(recorded):
    make, read = recorded
    assert finish(start('slurm_train.sh', 'p', 'j', 'c', 'w', **make('srun')))[0] == 0
    assert {'--gres=gpu:8', '--ntasks=8', '--ntasks-per-node=8'} <= set(read())


MEETINGS = {
    'once': (
        dict(NNODES='3', NODE_RANK='2', PORT='29512', MASTER_ADDR='10.0.0.7'),
        ['--nnodes=3', '--nproc_per_node=4', '--max_restarts=0', '--node_rank=2',
         '--master_addr=10.0.0.7', '--master_port=29512'],
    ),
    'restarts': (
        dict(MAX_RESTARTS='3'),
        ['--nnodes=1', '--nproc_per_node=4', '--max_restarts=3', '--rdzv_backend=c10d',
         '--rdzv_endpoint=127.0.0.1:', '--local_addr=127.0.0.1'],
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', MEETINGS)
def test_torchrun_gets_the_machines_of_the_environment(recorded, tmp_path, case):
    make, read = recorded
    make('python')  # which gives no free port either
    variables, expected = MEETINGS[case]
    variables = {**variables, 'PYTHON': str(tmp_path / 'bin' / 'python')}
    assert finish(start('dist_train.sh', 'c d.py', 4, '--amp', **variables))[0] == 0
    script = [f'{TOOLS}/train.py', 'c d.py', '--launcher', 'pytorch', '--amp']
    assert read()[:-1] == ['-m', 'torch.distributed.run', *expected, *script]


@pytest.mark.parametrize(
    'given', [['--max-restarts'], ['--max-restarts=-1'], ['--max-restarts', 'x']]
)
def test_restarts_are_a_number(given):
    status, out, err = finish(start('dist_train.sh', 'c.py', 2, *given))
    assert (status, out) == (2, '') and 'must be a number of restarts' in err
    assert len(err.splitlines()) == 1


def test_restarts_are_for_one_machine():
    variables = dict(NNODES='2', PORT='29512', MASTER_ADDR='10.0.0.7', MAX_RESTARTS='1')
    status, out, err = finish(start('dist_train.sh', 'c.py', 2, **variables))
    assert (status, out, len(err.splitlines())) == (2, '', 1) and 'NNODES=2' in err


def test_process_group_needs_no_gpu():
    """gloo starts where mmengine's own start would ask for CUDA."""
    if torch.cuda.is_available():
        pytest.skip('this machine has a GPU')
    init_process_group('none')
    assert not torch.distributed.is_initialized()
