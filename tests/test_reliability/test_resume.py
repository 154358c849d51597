"""A resumed run ends bit-equal to the unbroken one (R1, R6, R7, R11)."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hstpeft.engine import latest_checkpoint
from tests.support import tiny

EMA = """
_base_ = 'hst_tiny.py'
custom_hooks = [*_base_.custom_hooks, dict(type='EMAHook', momentum=0.1)]
"""
FORGETFUL = """
_base_ = 'hst_tiny.py'
custom_hooks = [hook for hook in _base_.custom_hooks if hook['type'] != 'hstpeft.RNGStateHook']
"""
VALIDATED = 'train_cfg.val_interval=1'
# Random flip and drop path are on everywhere.
CASES = {
    'plain': ('hst_tiny', []),
    'validated': ('hst_tiny', [VALIDATED]),
    'workers and EMA': ('ema', [VALIDATED, 'train_dataloader.num_workers=2']),
}


@pytest.fixture(scope='module')
def leaves(trained) -> Path:
    folder = trained.task.folder
    (folder / 'ema.py').write_text(EMA)
    (folder / 'forgetful.py').write_text(FORGETFUL)
    return folder


@pytest.fixture(scope='module')
def unbroken(leaves, tmp_path_factory) -> Callable[[str], Path]:
    """Train a case once, when it is first asked for."""
    folder = tmp_path_factory.mktemp('unbroken')
    return functools.cache(lambda name: run(leaves, folder / name, name))


def run(leaves: Path, work_dir: Path, name: str, *flags: str, leaf: str = '') -> Path:
    default, options = CASES[name]
    config = leaves / f'{leaf or default}.py'
    return tiny.train(config, work_dir, *flags, options=[*tiny.DROP_PATH, *options])


def interrupted(unbroken: Path, work_dir: Path, epochs: int) -> Path:
    """Make the folder that a kill after so many epochs leaves behind."""
    work_dir.mkdir()
    for epoch in range(1, epochs + 1):
        shutil.copy(unbroken / f'epoch_{epoch}.pth', work_dir)
    (work_dir / 'last_checkpoint').write_text(str(work_dir / f'epoch_{epochs}.pth'))
    return work_dir


def final(work_dir: Path) -> dict:
    """Read what must be equal: all but the times and the paths."""
    checkpoint = tiny.load(work_dir / f'epoch_{tiny.EPOCHS}.pth')
    history = checkpoint.pop('message_hub')['log_scalars']
    checkpoint['history'] = {k: history[k].data[0] for k in ('train/loss', 'train/lr')}
    del checkpoint['meta']
    return checkpoint


@pytest.mark.parametrize(
    ('name', 'epochs'),
    [
        ('plain', 1),
        pytest.param('validated', 2, marks=pytest.mark.slow),
        pytest.param('workers and EMA', 1, marks=pytest.mark.slow),
    ],
)
def test_resumed_run_is_bit_equal(leaves, unbroken, tmp_path, name, epochs):
    work_dir = interrupted(unbroken(name), tmp_path / 'work', epochs)
    run(leaves, work_dir, name, '--resume')
    expected, got = final(unbroken(name)), final(work_dir)
    assert {'state_dict', 'optimizer', 'param_schedulers', 'rng_state'} <= expected.keys()
    assert len(expected['history']['train/loss']) == tiny.EPOCHS * tiny.STEPS
    for part in expected:
        assert tiny.same(expected[part], got[part]), part
    assert tiny.same(tiny.load(unbroken(name) / 'delta.pth'), tiny.load(work_dir / 'delta.pth'))


def test_without_the_random_state_the_resumed_run_differs(leaves, unbroken, tmp_path):
    """The control: what the test above sees is the work of RNGStateHook."""
    work_dir = interrupted(unbroken('plain'), tmp_path / 'work', 1)
    run(leaves, work_dir, 'plain', '--resume', leaf='forgetful')
    assert not tiny.same(final(unbroken('plain'))['state_dict'], final(work_dir)['state_dict'])


@pytest.mark.slow
def test_validation_does_not_change_the_training(unbroken):
    plain, validated = final(unbroken('plain')), final(unbroken('validated'))
    assert tiny.same(plain['state_dict'], validated['state_dict'])
    assert tiny.same(plain['history'], validated['history'])


@pytest.mark.slow
def test_ema_is_saved_beside_the_weights_and_is_the_delta(unbroken):
    """What EMAHook averages are all delta tensors, the trained norms of the trunk too."""
    checkpoint = final(unbroken('workers and EMA'))
    average, shadow = checkpoint['state_dict'], checkpoint['ema_state_dict']
    weights = {key.removeprefix('module.'): shadow[key] for key in shadow if key != 'steps'}
    assert weights.keys() == average.keys() == final(unbroken('plain'))['state_dict'].keys()
    for part in ('backbone.trunk.vit.blocks.0.norm1.weight', 'backbone.tuner.meta_tokens.0'):
        assert not average[part].equal(weights[part])
    delta = tiny.load(unbroken('workers and EMA') / 'delta.pth')
    assert tiny.same(dict(delta['state_dict']), dict(average))


@pytest.mark.parametrize('damage', ['truncated', 'empty', 'another'])
def test_damaged_newest_checkpoint_is_skipped_and_named(leaves, unbroken, tmp_path, capsys, damage):
    work_dir = interrupted(unbroken('plain'), tmp_path / 'work', 2)
    newest = work_dir / 'epoch_2.pth'
    content = newest.read_bytes()
    bad = {'truncated': content[: len(content) // 2], 'empty': b'', 'another': b'no checkpoint'}
    newest.write_bytes(bad[damage])
    if damage != 'truncated':
        path, checkpoint = latest_checkpoint(work_dir)
        assert path == work_dir / 'epoch_1.pth'
        assert tiny.same(checkpoint['state_dict'], tiny.load(path)['state_dict'])
    else:
        run(leaves, work_dir, 'plain', '--resume')
        assert tiny.same(final(unbroken('plain'))['state_dict'], final(work_dir)['state_dict'])
    said = [line for line in ''.join(capsys.readouterr()).splitlines() if 'skipped' in line]
    assert len(said) == 1
    assert str(newest) in said[0]


def test_no_readable_checkpoint_is_an_error_and_not_a_fresh_start(
    leaves, unbroken, tmp_path, capsys
):
    work_dir = interrupted(unbroken('plain'), tmp_path / 'work', 2)
    for path in work_dir.glob('epoch_*.pth'):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SystemExit) as exit_info:
        run(leaves, work_dir, 'plain', '--resume')
    assert exit_info.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f'train.py: error: none of the 2 checkpoints in {work_dir} can be read'
    assert len(list(work_dir.glob('epoch_*.pth'))) == 2


def test_resuming_a_finished_run_trains_nothing(leaves, unbroken, tmp_path, capsys):
    work_dir = shutil.copytree(unbroken('plain'), tmp_path / 'work')
    before = {path.name: path.read_bytes() for path in work_dir.glob('epoch_*.pth')}
    run(leaves, work_dir, 'plain', '--resume')
    assert 'Epoch(train)' not in capsys.readouterr().out
    assert before == {path.name: path.read_bytes() for path in work_dir.glob('epoch_*.pth')}
    assert tiny.same(tiny.load(unbroken('plain') / 'delta.pth'), tiny.load(work_dir / 'delta.pth'))
