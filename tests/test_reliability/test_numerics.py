"""NaN, infinity and a full memory end a run before they reach a weight or a file (N1 to N4, U4)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS

from tests.support import models, tiny

STEP = 4  # of 9, from 0: the second of epoch 2
LEAF = """
_base_ = '{leaf}'
custom_hooks = [*_base_.custom_hooks, dict(type='SpoilHook', what='{what}', value=float('{value}'))]
optim_wrapper = dict({wrapper})
"""


@HOOKS.register_module()
class SpoilHook(Hook):
    """Make something of one step what it should not be; keep the weights from before it."""

    last: 'SpoilHook'

    def __init__(self, what: str, value: float, steps=(STEP,)) -> None:
        self.what, self.value, self.steps = what, value, steps
        SpoilHook.last = self

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Spoil this step, if it is the one."""
        if runner.iter == self.steps[0]:
            self.model, self.before = runner.model, models.snapshot(runner.model)
            self.images = [Path(sample.img_path).name for sample in data_batch['data_samples']]
        if runner.iter in self.steps:
            getattr(self, self.what)(runner, data_batch)

    def loss(self, runner, data_batch) -> None:
        """Of the head."""
        runner.model.head.loss_module.loss_weight = self.value

    def pixel(self, runner, data_batch) -> None:
        """Of the second image."""
        data_batch['inputs'] = data_batch['inputs'].float()
        data_batch['inputs'][1, 0, 0, 0] = self.value

    def gradient(self, runner, data_batch) -> None:
        """Of the head's weight; the loss is as it was."""
        weight = runner.model.head.fc.weight
        handle = weight.register_hook(lambda gradient: handle.remove() or gradient * self.value)

    def rate(self, runner, data_batch) -> None:
        """Too high for float32, at a loss and gradients that are finite."""
        runner.model.head.loss_module.loss_weight = 1e4
        for group in runner.optim_wrapper.param_groups:
            group['lr'] = self.value

    def memory(self, runner, data_batch) -> None:
        """Ask torch for a petabyte."""
        torch.empty(10**15)

    def arrays(self, runner, data_batch) -> None:
        """Ask numpy for a petabyte."""
        np.empty(10**15)


def spoiled(task, what: str, value: str, wrapper: str = '') -> Path:
    text = LEAF.format(leaf=task.linear, what=what, value=value, wrapper=wrapper)
    path = task.folder / 'spoiled.py'
    path.write_text(text)
    return path


def stopped(leaf: Path, work_dir: Path, capsys, *flags: str, status: int = 3) -> str:
    """Train until the tool stops, by one line; the checkpoints of the epochs before stay."""
    with pytest.raises(SystemExit) as end:
        tiny.train(leaf, work_dir, *flags)
    lines = [line for line in capsys.readouterr().err.splitlines() if 'error:' in line]
    assert end.value.code == status and len(lines) == 1, lines
    assert sorted(path.name for path in work_dir.glob('*.pth')) == ['epoch_1.pth']
    return lines[0]


ACCUMULATED = 'accumulative_counts=2, clip_grad=dict(max_norm=1.0)'
SPOILED = {
    'NaN loss': ('loss', 'nan', '', 'loss is nan at epoch 2, iteration 5'),
    'infinite loss': ('loss', 'inf', '', 'loss is '),
    'NaN loss in an accumulated step': ('loss', 'nan', ACCUMULATED, 'loss is nan at epoch 2'),
    'NaN pixel': ('pixel', 'nan', '', 'loss is nan at epoch 2, iteration 5, where the pixels of '),
}


@pytest.mark.parametrize('case', SPOILED)
def test_N1_a_loss_that_is_not_finite_stops_before_the_step(task, tmp_path, capsys, case):
    what, value, wrapper, words = SPOILED[case]
    line = stopped(spoiled(task, what, value, wrapper), tmp_path, capsys)
    assert words in line and 'iteration 5' in line and 'optim_wrapper.optimizer.lr' in line
    spoil = SpoilHook.last
    assert all(name in line for name in spoil.images[:3]), 'the images of that very batch'
    assert not models.changed(spoil.model, spoil.before)
    if what == 'pixel':
        assert f'pixels of {task.data}' in line and f'{spoil.images[1]} are NaN' in line


@pytest.mark.parametrize('flags', [(), ('--bf16',)])
@pytest.mark.parametrize('value', ['nan', 'inf'])
def test_N2_a_gradient_that_is_not_finite_stops_before_the_step(
    task, tmp_path, capsys, value, flags
):
    wrapper = ACCUMULATED if flags else ''
    line = stopped(spoiled(task, 'gradient', value, wrapper), tmp_path, capsys, *flags)
    assert 'the gradient of head.fc.weight' in line and 'NaN or infinite at epoch 2' in line
    assert not models.changed(SpoilHook.last.model, SpoilHook.last.before)


def test_N2_a_gradient_whose_square_overflows_is_finite(task, tmp_path):
    sgd = "optimizer=dict(_delete_=True, type='SGD', lr=0.1)"
    leaf = spoiled(task, 'gradient', '1e25', sgd)
    leaf.write_text(leaf.read_text().replace('value=', 'steps=(8,), value='))
    tiny.train(leaf, tmp_path)
    weights = tiny.load(tmp_path / 'delta.pth')['state_dict']
    assert all(x.isfinite().all() for x in weights.values() if x.is_floating_point())


def test_N2_a_step_into_infinity_is_not_saved(task, tmp_path, capsys):
    """What it leaves behind at the end of an epoch; within one, the next loss tells."""
    sgd = "optimizer=dict(_delete_=True, type='SGD', lr=0.1)"
    leaf = spoiled(task, 'rate', '1e38', sgd)
    leaf.write_text(leaf.read_text().replace('value=', 'steps=(5,), value='))
    line = stopped(leaf, tmp_path, capsys)
    assert 'head.fc.weight' in line and 'this checkpoint is not written' in line


@OPTIM_WRAPPERS.register_module()
class ScaledOptimWrapper(OptimWrapper):
    """mmengine's AmpOptimWrapper needs a GPU; this is what it does with its scaler."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.loss_scaler = torch.amp.GradScaler('cpu')

    def backward(self, loss, **options) -> None:
        """Scale the loss."""
        self.loss_scaler.scale(loss).backward(**options)
        self._inner_count += 1

    def step(self, **options) -> None:
        """Step unless a gradient overflowed."""
        self.loss_scaler.step(self.optimizer, **options)
        self.loss_scaler.update()


SCALED = "type='ScaledOptimWrapper', optimizer=dict(fused={})"


@pytest.mark.parametrize('fused', [False, True])
def test_N3_skipped_steps_are_counted(task, tmp_path, capsys, fused):
    leaf = spoiled(task, 'gradient', 'inf', SCALED.format(fused))
    leaf.write_text(leaf.read_text().replace('value=', 'steps=(4, 5, 7), value='))
    tiny.train(leaf, tmp_path)
    told = [line for line in capsys.readouterr().out.splitlines() if 'step skipped' in line]
    assert [f'iteration {n}: step skipped, {row} in a row' in line for (n, row), line in
            zip([(5, 1), (6, 2), (8, 1)], told, strict=True)] == [True] * 3  # fmt: skip
    assert '3 steps skipped by the loss scaler' in (next(tmp_path.glob('*/*.log'))).read_text()
    assert (tmp_path / 'delta.pth').exists()


def test_N3_many_skipped_steps_in_a_row_stop(task, tmp_path, capsys):
    leaf = spoiled(task, 'gradient', 'inf', SCALED.format(False))
    hooks = 'steps=(3, 4, 5, 6, 7, 8), value='
    text = leaf.read_text().replace('value=', hooks)
    leaf.write_text(
        f"{text}custom_hooks += [dict(type='hstpeft.SkippedStepsHook', max_in_row=2)]\n"
    )
    text = leaf.read_text().replace('*_base_.custom_hooks', '')
    leaf.write_text(text.replace('[, ', '['))
    line = stopped(leaf, tmp_path, capsys)
    assert '2 in a row' in line and '--bf16 instead of --amp' in line
    assert not models.changed(SpoilHook.last.model, SpoilHook.last.before)


def test_N3_a_loss_is_no_matter_of_the_scaler(task, tmp_path, capsys):
    line = stopped(spoiled(task, 'loss', 'nan', SCALED.format(False)), tmp_path, capsys)
    assert 'loss is nan at epoch 2, iteration 5' in line


@HOOKS.register_module()
class MetricHook(Hook):
    """Give the validations these results."""

    priority = 'VERY_HIGH'

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Put the next one in."""
        metrics['accuracy/top1'] = self.values[runner.epoch - 1]


@pytest.mark.parametrize('rule', ['greater', 'less'])
def test_N4_a_metric_that_is_nan_is_never_the_best(task, tmp_path, rule):
    leaf = task.folder / 'metric.py'
    values = "[float('nan'), 50.0, float('nan')]"
    leaf.write_text(
        f"_base_ = '{task.linear}'\n"
        f"custom_hooks = [*_base_.custom_hooks, dict(type='MetricHook', values={values})]\n"
        f"default_hooks = dict(checkpoint=dict(save_best='accuracy/top1', rule='{rule}'))\n"
        'train_cfg = dict(val_interval=1)\n'
    )
    tiny.train(leaf, tmp_path)
    assert [path.name for path in tmp_path.glob('best_*')] == ['best_accuracy_top1_epoch_2.pth']
    hub = tiny.load(tmp_path / 'epoch_3.pth')['message_hub']
    assert hub['runtime_info']['best_score'] == 50


@pytest.mark.parametrize('what', ['memory', 'arrays'])
def test_U4_out_of_memory_is_one_line_with_the_peak_and_advice(task, tmp_path, capsys, what):
    line = stopped(spoiled(task, what, '0'), tmp_path, capsys, status=1)
    for words in ('GiB on the CPU', 'train_dataloader.batch_size is 8', 'accumulative_counts',
                  'with_cp=True', '--bf16'):  # fmt: skip
        assert words in line
