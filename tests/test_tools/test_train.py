"""tools/train.py and tools/test.py, from the command line to the delta."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hstpeft.delta import load_checkpoint
from hstpeft.engine.config import load_config
from hstpeft.engine.launch import build_runner
from tests.support import tiny
from tests.support.models import snapshot
from tools.test import main as run_test
from tools.train import apply_options, main, parse_options


def runner_of(config: Path, work_dir: Path, *flags: str, options=()):
    """Do what tools/train.py does up to ``train()``, and keep the runner."""
    parsed = parse_options(tiny.arguments(config, work_dir, *flags, options=options))
    cfg = load_config(parsed.config, parsed.cfg_options)
    apply_options(cfg, parsed)
    return build_runner(cfg)


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def test_training_changes_the_delta_and_not_a_bit_of_the_frozen_trunk(task, tmp_path, capsys):
    """`Runner.train` initialises weights after the model was built; the trunk must survive that."""
    runner = runner_of(task.hst, tmp_path)
    before = {name: digest(value) for name, value in snapshot(runner.model).items()}
    file = {f'backbone.trunk.vit.{k}': digest(v) for k, v in load_trunk(task.weights).items()}
    assert file.items() <= before.items()
    runner.train()
    after = {name: digest(value) for name, value in snapshot(runner.model).items()}
    parameters = dict(runner.model.named_parameters())
    trainable = {name for name, parameter in parameters.items() if parameter.requires_grad}
    changed = {name for name in before if before[name] != after[name]}
    buffers = before.keys() - parameters.keys()
    # The bias of the keys has no influence: it moves all scores of a softmax alike.
    moved = {name for name in trainable if not name.endswith('attn.k.bias')}
    assert moved <= changed <= trainable | buffers
    optimised = {
        id(p) for group in runner.optim_wrapper.optimizer.param_groups for p in group['params']
    }
    assert optimised == {id(parameters[name]) for name in trainable}
    assert_table(capsys.readouterr().out, runner.model, trainable)


def load_trunk(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def assert_table(log: str, model, trainable: set[str]) -> None:
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    row = next(line for line in log.splitlines() if '│ all ' in line)
    free, size = (int(n.replace(',', '')) for n in re.findall(r'[\d,]+(?= +│)', row)[:2])
    assert (free, size) == (sum(sizes[name] for name in trainable), sum(sizes.values()))


def test_last_checkpoint_and_delta_hold_the_same_weights(trained):
    checkpoint = load_checkpoint(trained.work_dir / 'epoch_3.pth')
    assert tiny.same(dict(checkpoint['state_dict']), dict(tiny.load(trained.delta)['state_dict']))


def test_log_has_an_eta_and_scalars(trained):
    log = next(trained.work_dir.glob('*/*.log')).read_text()
    assert len(re.findall(r'Epoch\(train\).* eta: ', log)) == 9
    lines = next(trained.work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
    scalars = [json.loads(line) for line in lines]
    assert next(entry['loss'] for entry in scalars if 'loss' in entry) > 0
    assert 'accuracy/top1' in scalars[-1]


@pytest.mark.parametrize('which', ['delta.pth', 'epoch_3.pth'])
def test_test_py_reaches_what_the_training_reported(trained, tmp_path, which):
    lines = next(trained.work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
    reported = json.loads(lines[-1])['accuracy/top1']
    out = tmp_path / 'new folder' / 'result.json'
    call = tiny.arguments(trained.task.hst, tmp_path, trained.work_dir / which, '--out', out)
    assert run_test(call) == {'accuracy/top1': reported} == json.loads(out.read_text())


def test_bf16_trains_a_float32_delta(trained, tmp_path):
    work_dir = tiny.train(trained.task.hst, tmp_path, '--bf16', options=['train_cfg.max_epochs=1'])
    state = tiny.load(work_dir / 'delta.pth')['state_dict']
    kinds = {value.dtype for value in state.values() if value.is_floating_point()}
    assert kinds == {torch.float32}
    plain = tiny.load(trained.work_dir / 'epoch_1.pth')['state_dict']
    assert 0 < tiny.spread(state, plain) < 0.1, 'bfloat16 is another, near result'


def test_dry_run_of_a_recipe_of_epochs_takes_one_step_with_its_schedule(trained, tmp_path):
    work_dir = tiny.train(trained.task.hst, tmp_path, '--dry-run')
    assert sorted(path.name for path in work_dir.glob('*.pth')) == ['delta.pth', 'iter_1.pth']
    scalars = next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
    step, metrics = map(json.loads, scalars)
    assert 'loss' in step
    assert 'accuracy/top1' in metrics
    schedulers = tiny.load(work_dir / 'iter_1.pth')['param_schedulers']
    whole = tiny.load(trained.work_dir / 'epoch_1.pth')['param_schedulers']
    assert [s['end'] for s in schedulers] == [s['end'] for s in whole], 'epochs are still as long'


def test_auto_scale_lr_follows_the_batch(task, tmp_path):
    base = load_config(task.hst)
    assert base.auto_scale_lr.base_batch_size == 32
    options = ['train_cfg.max_epochs=1', 'param_scheduler=[]']
    for flags, factor in (((), 1), (('--auto-scale-lr',), tiny.BATCH / 32)):
        runner = runner_of(task.hst, tmp_path, *flags, options=options)
        runner.train()
        assert runner.optim_wrapper.get_lr()['lr'] == [5e-3 * factor] * 2


def test_no_validate_skips_the_validation(task, tmp_path, capsys):
    tiny.train(task.hst, tmp_path, '--no-validate', options=['train_cfg.max_epochs=1'])
    out = capsys.readouterr().out
    assert 'Epoch(train) [1][3/3]' in out and 'Epoch(val)' not in out


NEW_TASK = """
_base_ = 'hst_tiny.py'
model = dict(head=dict(num_classes=4))
"""


def test_another_class_count_needs_a_new_head(trained, tmp_path, capsys):
    leaf = trained.task.folder / 'four_classes.py'
    leaf.write_text(NEW_TASK)
    flags, options = ['--load-from', trained.delta], ['train_cfg.max_epochs=1']
    with pytest.raises(SystemExit, match='1'):
        tiny.train(leaf, tmp_path / 'a', *flags, options=options)
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'head.fc.weight (3, 16) instead of (4, 16)' in error
    assert error.endswith('For a new task pass --allow-new-head')
    runner = runner_of(leaf, tmp_path / 'b', *flags, '--allow-new-head', options=options)
    runner.load_or_resume()
    old, new = tiny.load(trained.delta)['state_dict'], runner.model.state_dict()
    shared = {key: value for key, value in old.items() if not key.startswith('head.')}
    assert tiny.same(shared, {key: new[key] for key in shared})
    runner.train()
    assert tiny.load(tmp_path / 'b' / 'delta.pth')['state_dict']['head.fc.weight'].shape == (4, 16)


@pytest.mark.slow
def test_the_script_runs_from_any_folder(trained, tmp_path):
    """A process of its own: what the user types, paths with spaces included."""
    script = tiny.ROOT / 'tools' / 'test.py'
    folder = tmp_path / 'two words'
    folder.mkdir()
    command = [sys.executable, script, trained.task.hst, trained.delta, '--out', 'the result.json']
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': ''}
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert json.loads((folder / 'the result.json').read_text())['accuracy/top1'] > 0
    assert (folder / 'work_dirs' / 'hst_tiny').is_dir()


FLAGS = {
    '-h', '--help', '--work-dir', '--cfg-options', '--launcher', '--local_rank', '--local-rank',
    '--resume', '--load-from', '--allow-new-head', '--amp', '--bf16', '--auto-scale-lr',
    '--no-validate', '--dry-run', '--safe-config',
    '--trust-checkpoint',
}  # fmt: skip


def test_train_py_grows_no_flags(capsys):
    """A ratchet: what a config can say needs no flag. Think twice before you extend the list."""
    with pytest.raises(SystemExit, match='0'):
        main(['--help'])
    shown = set(re.findall(r'(?<![\w-])--?[a-z][\w-]*', capsys.readouterr().out))
    assert FLAGS - {'--local_rank', '--local-rank'} <= shown
    assert {flag for flag in shown if flag.startswith('--')} <= FLAGS
