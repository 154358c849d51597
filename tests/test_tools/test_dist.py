"""The launchers: two processes on a machine without a GPU equal one; arguments arrive as typed.

Every job here is a real one: bash, torchrun and its workers.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hstpeft.engine import init_process_group
from tests.support import tiny
from tools.test import main as run_test

TOOLS = tiny.ROOT / 'tools'
# No random flip and no drop path: the two processes draw other random numbers than the one.
STILL = """
_base_ = 'hst_tiny.py'
train_dataloader = dict(dataset=dict(pipeline=[_base_.load, dict(type='PackInputs')]))
"""
# SGD, since Adam turns the rounding noise of an all but zero gradient into whole steps.
SGD = ('optim_wrapper.optimizer.type=SGD', 'optim_wrapper.optimizer.lr=0.05')


def start(script: str, *arguments: object, **variables: str) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k not in ('LOCAL_RANK', 'PORT', 'NNODES')}
    environment.update({'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1', **variables})
    return subprocess.Popen(
        ['bash', str(TOOLS / script), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=400)
    return process.returncode, out, err


@pytest.fixture(scope='module')
def folder(trained) -> Path:
    (trained.task.folder / 'still.py').write_text(STILL)
    return trained.task.folder


@pytest.fixture(scope='module')
def jobs(trained, folder, tmp_path_factory) -> dict[str, tuple[Path, int, str, str]]:
    """Run three jobs of two processes each, at the same time: their ports must not collide."""
    work = {name: tmp_path_factory.mktemp(f'{name} job') for name in ('train', 'quoted', 'test')}
    leaf, wrapper = folder / 'still.py', 'model_wrapper_cfg.sync_bn=True'
    options = ['train_dataloader.batch_size=4', wrapper, *SGD]
    quoted = ['model.backbone.tuner.side_heads=[1, 2, 2, 4]', 'train_cfg.max_epochs=1']
    quoted += [f'train_dataloader.dataset.data_root={spaced(trained.task)}']
    result = work['test'] / 'the result.json'
    running = {
        'train': start(
            'dist_train.sh', leaf, 2, '--work-dir', work['train'], '--cfg-options', *options
        ),
        'quoted': start(
            'dist_train.sh', leaf, 2, '--cfg-options', *quoted, '--work-dir', work['quoted']
        ),
        'test': start(
            'dist_test.sh',
            trained.task.hst,
            trained.delta,
            2,
            '--out',
            result,
            '--work-dir',
            work['test'],
        ),
    }
    return {name: (work[name], *finish(process)) for name, process in running.items()}


def spaced(task: tiny.Task) -> Path:
    """Give the images a second path, with spaces."""
    link = task.folder / 'two more words'
    link.symlink_to(task.data)
    return link


@pytest.mark.slow
def test_two_processes_train_the_same_model_as_one(folder, jobs, tmp_path):
    work_dir, status, _, err = jobs['train']
    assert status == 0, err
    one = tiny.train(folder / 'still.py', tmp_path / 'one', options=SGD)
    before = tiny.load(one / 'epoch_1.pth')['state_dict']
    expected = tiny.load(one / 'delta.pth')['state_dict']
    got = tiny.load(work_dir / 'delta.pth')['state_dict']
    assert tiny.spread(expected, before) > 1e-3, 'the training must move the weights'
    assert tiny.spread(expected, got) < 1e-6


@pytest.mark.slow
def test_quoted_arguments_arrive_and_jobs_do_not_collide(folder, jobs):
    work_dir, status, _, err = jobs['quoted']
    assert status == 0, err
    config = (work_dir / 'still.py').read_text()
    assert 'two more words' in config
    checkpoint = tiny.load(work_dir / 'epoch_1.pth')
    assert checkpoint['meta']['settings']['processes'] == 2
    # 24 images, 8 a process and step, 3 in an epoch for one process, 1 for two.
    assert checkpoint['meta']['iter'] == 24 // (2 * tiny.BATCH)
    namespace: dict = {}
    exec(config, namespace)
    assert namespace['model']['backbone']['tuner']['side_heads'] == [1, 2, 2, 4]


@pytest.mark.slow
def test_two_processes_test_like_one(trained, jobs, tmp_path):
    """9 images do not divide by 2: the sampler's padding must not count."""
    work_dir, status, _, err = jobs['test']
    assert status == 0, err
    metrics = run_test(tiny.arguments(trained.task.hst, tmp_path, trained.delta))
    assert json.loads((work_dir / 'the result.json').read_text()) == metrics


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


def test_torchrun_gets_the_machines_of_the_environment(recorded, tmp_path):
    make, read = recorded
    make('python')
    variables = dict(NNODES='3', NODE_RANK='2', PORT='29512', MASTER_ADDR='10.0.0.7')
    variables['PYTHON'] = str(tmp_path / 'bin' / 'python')
    assert finish(start('dist_train.sh', 'c d.py', 4, '--amp', **variables))[0] == 0
    assert read()[:-1] == [
        '-m', 'torch.distributed.run', '--nnodes=3', '--node_rank=2', '--master_addr=10.0.0.7',
        '--nproc_per_node=4', '--master_port=29512', f'{TOOLS}/train.py', 'c d.py',
        '--launcher', 'pytorch', '--amp',
    ]  # fmt: skip


def test_process_group_needs_no_gpu():
    """gloo starts where mmengine's own start would ask for CUDA."""
    if torch.cuda.is_available():
        pytest.skip('this machine has a GPU')
    init_process_group('none')
    assert not torch.distributed.is_initialized()
