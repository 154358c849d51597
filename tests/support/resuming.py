"""Tiny trainings that are cut off and go on, and what must be equal afterwards."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support import tiny

# Random in every place that a resume must restore: flip, drop path; and EMA, cosine schedule.
EMA = """
_base_ = 'hst_tiny.py'
custom_hooks = [*_base_.custom_hooks, dict(type='EMAHook', momentum=0.1)]
"""
# Four steps an epoch, an optimiser step behind every third: gradients are pending at each end.
ACCUMULATED = """
_base_ = 'hst_tiny.py'
train_dataloader = dict(batch_size=6)
optim_wrapper = dict(accumulative_counts=3, clip_grad=dict(max_norm=0.5))
"""
# Passes of 4 steps, and none of the checkpoints but every fourth at the end of one.
ITERS = """
_base_ = 'hst_tiny.py'
train_cfg = dict(_delete_=True, by_epoch=False, max_iters=9, val_interval=4)
train_dataloader = dict(batch_size=6, sampler=dict(_delete_=True, type='{sampler}', shuffle=True))
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=1, max_keep_ckpts=-1),
)
log_processor = dict(by_epoch=False)
"""
WORKERS = 'train_dataloader.num_workers=2'


def write_leaves(folder: Path) -> Path:
    """Write the leaves beside ``hst_tiny.py``: ``ema``, ``accumulated``, ``infinite``, ``passes``."""
    (folder / 'ema.py').write_text(EMA)
    (folder / 'accumulated.py').write_text(ACCUMULATED)
    (folder / 'infinite.py').write_text(ITERS.format(sampler='InfiniteSampler'))
    (folder / 'passes.py').write_text(ITERS.format(sampler='DefaultSampler'))
    return folder


def train(leaf: Path, work_dir: Path, *flags: str | Path, options: Sequence[str] = ()) -> Path:
    """Train with drop path on."""
    return tiny.train(leaf, work_dir, *flags, options=[*tiny.DROP_PATH, *options])


def cut_off(whole: Path, work_dir: Path, *names: str) -> Path:
    """Make the folder that a kill leaves behind which lets these checkpoints be."""
    work_dir.mkdir()
    for name in names:
        shutil.copy(whole / name, work_dir)
    return work_dir


def state(path: Path) -> dict[str, Any]:
    """Read what must be equal of a checkpoint: all but times, paths and what a run is called."""
    checkpoint = tiny.load(path)
    history = checkpoint.pop('message_hub')['log_scalars']
    checkpoint['history'] = {k: history[k].data for k in ('train/loss', 'train/lr')}
    meta = checkpoint.pop('meta')
    return {**checkpoint, 'epoch': meta['epoch'], 'iter': meta['iter']}


def assert_equal(whole: Path, resumed: Path, last: str) -> None:
    """Compare the last checkpoint and the delta, all parts, bit by bit."""
    expected, got = state(whole / last), state(resumed / last)
    assert {'state_dict', 'optimizer', 'param_schedulers'} <= expected.keys() == got.keys()
    steps = len(expected['history']['train/loss'][0])
    assert steps == expected['iter'] > 1
    for part in expected:
        assert tiny.same(expected[part], got[part]), part
    delta, other = (tiny.load(folder / 'delta.pth') for folder in (whole, resumed))
    assert tiny.same(delta['state_dict'], other['state_dict'])
