"""R4: a training that is killed at any step ends, after --resume, with the same weights.

The killed trainings run in processes of their own. tools/soak.py does it 200 times.
"""

import os
import random
import signal
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from tests.support import tiny
from tests.support.resuming import WORKERS, assert_equal, train

MORTAL = """
_base_ = '{leaf}'
custom_hooks = [*_base_.custom_hooks, dict(type='KillHook', step={step})]
"""
# Of iterations: a checkpoint behind every second step.
LEAVES = {'hst_tiny': ('epoch_3.pth', []), 'infinite': ('iter_9.pth', ['2'])}


@HOOKS.register_module()
class KillHook(Hook):
    """Kill the process, as ``kill -9`` does, behind a training step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Die at the step, counted over all epochs from 0."""
        if runner.iter == self.step:
            print(f'killed at step {runner.iter}', flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


def options_of(leaf: str) -> list[str]:
    interval = [f'default_hooks.checkpoint.interval={n}' for n in LEAVES[leaf][1]]
    return [WORKERS, *interval]


@pytest.fixture(scope='module')
def unbroken(leaves, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp('unbroken')
    return {
        leaf: train(leaves / f'{leaf}.py', folder / leaf, options=options_of(leaf))
        for leaf in LEAVES
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ('leaf', 'third'), [('hst_tiny', 0), ('hst_tiny', 1), ('hst_tiny', 2), ('infinite', 1)]
)
def test_R4_a_killed_run_resumes_to_the_same_weights(
    leaves, unbroken, tmp_path, leaf, third, capsys
):
    step = tiny.STEPS * third + random.SystemRandom().randrange(tiny.STEPS)
    mortal, work_dir, log = tmp_path / 'mortal.py', tmp_path / 'work', tmp_path / 'log'
    mortal.write_text(MORTAL.format(leaf=leaves / f'{leaf}.py', step=step))
    status = tiny.run_process(train_mortal, mortal, work_dir, options_of(leaf), log=log)
    assert status == -signal.SIGKILL, log.read_text()
    assert f'killed at step {step}' in log.read_text()
    assert not (work_dir / 'delta.pth').exists()
    saved = len([*work_dir.glob('epoch_*.pth'), *work_dir.glob('iter_*.pth')])
    assert saved == (third if leaf == 'hst_tiny' else step // 2)
    train(leaves / f'{leaf}.py', work_dir, '--resume', options=options_of(leaf))
    assert_equal(unbroken[leaf], work_dir, LEAVES[leaf][0])
    assert ('no checkpoint in' in ''.join(capsys.readouterr())) == (saved == 0)
    assert not list(work_dir.rglob('*.tmp*'))


def train_mortal(config: Path, work_dir: Path, options: list[str]) -> None:
    train(config, work_dir, options=options)
