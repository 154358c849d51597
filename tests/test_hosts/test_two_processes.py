"""Two gloo processes train a segmentor and a detector as one process would, through the launcher."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import dense_hosts, tiny

pytestmark = [pytest.mark.host, pytest.mark.slow]
# The wide images alone, for padding depends on the batch. SGD, since Adam turns the rounding noise
# of an all but zero gradient into whole steps.
STILL = (
    'train_dataloader.dataset.indices=[0,2]',
    'optim_wrapper.optimizer.type=SGD',
    'optim_wrapper.optimizer.lr=0.05',
    'model_wrapper_cfg.sync_bn=True',
)
LIMIT = 1e-4


def still_leaf(task: str, folder: Path, shared: Path) -> Path:
    """Write a leaf that draws no random numbers in training but those of the order."""
    leaf = dense_hosts.write_leaf(task, 'hst', folder, shared)
    text = leaf.read_text()
    assert "'dropout_ratio': 0.1" in text or task == 'atss'
    text = text.replace("'dropout_ratio': 0.1", "'dropout_ratio': 0.0")
    steps = "[step for step in {0} if not step['type'].rpartition('.')[2].startswith('Random')]"
    pipeline = "train_dataloader['dataset']['pipeline']"
    leaf.write_text(f'{text}{pipeline} = {steps.format(pipeline)}\n')
    return leaf


@pytest.mark.parametrize('task', ['upernet', 'atss'])
def test_X1_two_processes_train_the_same_dense_model_as_one(task, shared, tmp_path, need_host):
    """UperNet's synchronised norms see one value per process behind the pooling to one cell."""
    need_host(dense_hosts.TASKS[task].host)
    leaf = still_leaf(task, tmp_path, shared)
    environment = {k: v for k, v in os.environ.items() if k not in ('LOCAL_RANK', 'PORT', 'NNODES')}
    environment.update(PYTHON=sys.executable, OMP_NUM_THREADS='1')
    launcher = ['bash', str(tiny.ROOT / 'tools/dist_train.sh'), str(leaf), '2']
    job = subprocess.run(
        [*launcher, '--work-dir', str(tmp_path / 'two'), '--cfg-options', *STILL,
         'train_dataloader.batch_size=1'],
        env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert job.returncode == 0, job.stderr
    tiny.train(leaf, tmp_path / 'one', options=STILL)

    first, one = (tiny.load(tmp_path / 'one' / f'iter_{n}.pth') for n in (1, dense_hosts.ITERS))
    two = tiny.load(tmp_path / 'two' / f'iter_{dense_hosts.ITERS}.pth')
    assert two['meta']['iter'] == dense_hosts.ITERS
    assert tiny.spread(one['state_dict'], first['state_dict']) > 1e-3, 'the weights must move'
    assert tiny.spread(one['state_dict'], two['state_dict']) < LIMIT
