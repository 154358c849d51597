"""A training that is killed at any step ends, after --resume, with the same weights (R4).

The killed trainings run in processes of their own.
"""

import os
import random
import signal

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from tests.support import tiny

OPTIONS = [*tiny.DROP_PATH, 'train_dataloader.num_workers=2']
MORTAL = """
_base_ = '{leaf}'
custom_hooks = [*_base_.custom_hooks, dict(type='KillHook', step={step})]
"""


@HOOKS.register_module()
class KillHook(Hook):
    """Kill the process, as ``kill -9`` does, behind a training step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Die at the step, counted over all epochs from 0."""
        if runner.iter == self.step:
            print(f'killed in epoch {runner.epoch + 1} at step {runner.iter}', flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope='module')
def unbroken(trained, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('unbroken')
    return tiny.load(tiny.train(trained.task.hst, work_dir, options=OPTIONS) / 'delta.pth')


@pytest.mark.slow
@pytest.mark.parametrize('epoch', [1, 2, 3])
def test_killed_run_resumes_to_the_same_weights(task, unbroken, tmp_path, epoch, capsys):
    step = tiny.STEPS * (epoch - 1) + random.SystemRandom().randrange(tiny.STEPS)
    mortal, work_dir, log = tmp_path / 'mortal.py', tmp_path / 'work', tmp_path / 'log'
    mortal.write_text(MORTAL.format(leaf=task.hst, step=step))
    options = dict(options=OPTIONS)
    assert tiny.run_process(train, mortal, work_dir, log=log) == -signal.SIGKILL, log.read_text()
    assert f'killed in epoch {epoch} at step {step}' in log.read_text()
    assert not (work_dir / 'delta.pth').exists()
    assert len(list(work_dir.glob('epoch_*.pth'))) == epoch - 1
    tiny.train(task.hst, work_dir, '--resume', **options)
    resumed = tiny.load(work_dir / 'delta.pth')
    assert tiny.same(unbroken['state_dict'], resumed['state_dict']), f'killed at step {step}'
    assert ('no checkpoint in' in ''.join(capsys.readouterr())) == (epoch == 1)


def train(config, work_dir) -> None:
    tiny.train(config, work_dir, options=OPTIONS)
