"""What training moves and what it does not, and that a seed decides all of it (N5, N7)."""

import json

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from tests.support import tiny
from tests.support.paths import ROOT

CURVES = ROOT / 'tests' / 'data' / 'loss_curves'


@HOOKS.register_module()
class IdleParameterHook(Hook):
    """Give the head a parameter that no loss depends on, before the optimiser is built."""

    def before_train(self, runner) -> None:
        """It is in the optimiser, as of a head that names it."""
        runner.model.head.idle = nn.Parameter(torch.ones(2))
        runner.optim_wrapper.optimizer.add_param_group({'params': [runner.model.head.idle]})


def test_N5_what_gets_no_gradient_is_named_once(task, tmp_path, capsys):
    leaf = task.folder / 'idle.py'
    hooks = "custom_hooks = [dict(type='IdleParameterHook'), *_base_.custom_hooks]\n"
    # One schedule a group of parameters is more than this is about.
    leaf.write_text(f"_base_ = '{task.linear}'\n{hooks}param_scheduler = None\n")
    tiny.train(leaf, tmp_path)
    told = [line for line in capsys.readouterr().out.splitlines() if 'without a gradient' in line]
    assert len(told) == 1 and 'head.idle: trainable, but' in told[0] and 'WARNING' in told[0]


def test_N7_the_same_seed_gives_the_same_bits(trained, tmp_path):
    again = tiny.train(trained.task.hst, tmp_path / 'again')
    seed = ['randomness.seed=43']
    other = tiny.train(trained.task.hst, tmp_path / 'other', options=seed)
    deltas = [tiny.load(path)['state_dict'] for path in
              (trained.delta, again / 'delta.pth', other / 'delta.pth')]  # fmt: skip
    assert tiny.same(deltas[0], deltas[1]) and not tiny.same(deltas[0], deltas[2])


def test_N7_deterministic_algorithms_pass_and_give_the_same_bits(task, tmp_path):
    options = ['randomness.deterministic=True', 'train_cfg.max_epochs=1']
    try:
        folders = [tiny.train(task.hst, tmp_path / name, options=options) for name in 'ab']
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
    first, second = (tiny.load(folder / 'delta.pth')['state_dict'] for folder in folders)
    assert tiny.same(first, second)


@pytest.mark.gpu
def test_N7_the_loss_curve_on_a_gpu_is_the_stored_one(task, tmp_path):
    """A GPU that trains otherwise than others of its kind: by its driver, its libraries, its memory."""
    if not torch.cuda.is_available():
        pytest.skip('no GPU: a user with one compares two runs with randomness.deterministic=True')
    stored = CURVES / f'{torch.cuda.get_device_name()}.json'
    if not stored.exists():
        pytest.skip(f'no curve is stored for this kind of GPU: {stored}')
    hub = tiny.load(tiny.train(task.hst, tmp_path) / 'epoch_3.pth')['message_hub']
    losses = hub['log_scalars']['train/loss'].data[0]
    assert losses == pytest.approx(json.loads(stored.read_text()), rel=1e-3)
