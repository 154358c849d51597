"""R1, R2, R3, R6, R7, R10, R11: a resumed run ends bit-equal to the unbroken one, or says why not."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hstpeft.engine import RNGStateHook, latest_checkpoint
from hstpeft.engine.resume import batches
from hstpeft.engine.resume.state import ResumeHook
from tests.support import tiny
from tests.support.resuming import WORKERS, assert_equal, cut_off, state, train

VALIDATED = 'train_cfg.val_interval=1'
EPOCHS = {
    'plain': ('hst_tiny', []),
    'validated': ('hst_tiny', [VALIDATED]),
    'workers and EMA': ('ema', [VALIDATED, WORKERS]),
}
LAST = f'epoch_{tiny.EPOCHS}.pth'


@pytest.fixture(scope='module')
def unbroken(leaves, tmp_path_factory) -> Callable[..., Path]:
    """Train a leaf once with given options, when it is first asked for."""
    folder = tmp_path_factory.mktemp('unbroken')

    @functools.cache
    def run(leaf: str, *options: str, flags: tuple[str, ...] = ()) -> Path:
        work_dir = folder / str(len(list(folder.iterdir())))
        return train(leaves / f'{leaf}.py', work_dir, *flags, options=options)

    return run


@pytest.mark.parametrize(
    ('name', 'epochs'),
    [
        ('plain', 1),
        pytest.param('validated', 2, marks=pytest.mark.slow),
        pytest.param('workers and EMA', 1, marks=pytest.mark.slow),
    ],
)
def test_R1_a_resumed_epoch_based_run_is_bit_equal(leaves, unbroken, tmp_path, name, epochs):
    leaf, options = EPOCHS[name]
    whole = unbroken(leaf, *options)
    work_dir = cut_off(whole, tmp_path / 'work', f'epoch_{epochs}.pth')
    train(leaves / f'{leaf}.py', work_dir, '--resume', options=options)
    assert_equal(whole, work_dir, LAST)


def test_R1_control_without_the_seeds_of_the_steps_the_resumed_run_differs(
    leaves, unbroken, tmp_path, monkeypatch
):
    whole = unbroken('hst_tiny')
    work_dir = cut_off(whole, tmp_path / 'work', 'epoch_1.pth')
    monkeypatch.setattr(RNGStateHook, 'before_train_iter', lambda *_, **__: None)
    train(leaves / 'hst_tiny.py', work_dir, '--resume')
    assert not tiny.same(state(whole / LAST)['state_dict'], state(work_dir / LAST)['state_dict'])


@pytest.mark.slow
def test_R1_neither_validation_nor_workers_change_the_training(unbroken):
    plain = state(unbroken('hst_tiny') / LAST)
    for options in ([VALIDATED], [WORKERS]):
        other = state(unbroken('hst_tiny', *options) / LAST)
        for part in ('state_dict', 'optimizer', 'history'):
            assert tiny.same(plain[part], other[part]), (options, part)


@pytest.mark.slow
def test_R1_ema_is_saved_beside_the_weights_and_is_the_delta(unbroken):
    """What EMAHook averages are all delta tensors, the trained norms of the trunk too."""
    work_dir = unbroken('ema', VALIDATED, WORKERS)
    checkpoint = tiny.load(work_dir / LAST)
    average, shadow = checkpoint['state_dict'], checkpoint['ema_state_dict']
    weights = {key.removeprefix('module.'): shadow[key] for key in shadow if key != 'steps'}
    plain = tiny.load(unbroken('hst_tiny') / LAST)['state_dict']
    assert weights.keys() == average.keys() == plain.keys()
    for part in ('backbone.trunk.vit.blocks.0.norm1.weight', 'backbone.tuner.meta_tokens.0'):
        assert not average[part].equal(weights[part])
    assert tiny.same(dict(tiny.load(work_dir / 'delta.pth')['state_dict']), dict(average))


@pytest.mark.slow
@pytest.mark.parametrize('flags', [(), ('--bf16',)], ids=['float32', 'bf16'])
def test_R2_gradients_pending_between_two_optimiser_steps_are_saved(
    leaves, unbroken, tmp_path, flags
):
    whole = unbroken('accumulated', flags=flags)
    assert tiny.load(whole / 'epoch_1.pth')['gradients']
    work_dir = cut_off(whole, tmp_path / 'work', 'epoch_1.pth')
    train(leaves / 'accumulated.py', work_dir, '--resume', *flags)
    assert_equal(whole, work_dir, LAST)


@pytest.mark.slow
def test_R2_control_without_the_pending_gradients_the_resumed_run_differs(
    leaves, unbroken, tmp_path, monkeypatch
):
    whole = unbroken('accumulated')
    work_dir = cut_off(whole, tmp_path / 'work', 'epoch_1.pth')
    monkeypatch.setattr(ResumeHook, 'after_load_checkpoint', lambda *_, **__: None)
    train(leaves / 'accumulated.py', work_dir, '--resume')
    assert not tiny.same(state(whole / LAST)['state_dict'], state(work_dir / LAST)['state_dict'])


@pytest.mark.parametrize(
    ('leaf', 'workers', 'step'),
    [
        ('infinite', [], 3),
        pytest.param('passes', [], 6, marks=pytest.mark.slow),
        pytest.param('passes', [WORKERS], 4, marks=pytest.mark.slow),
        pytest.param('infinite', [WORKERS], 7, marks=pytest.mark.slow),
    ],
)
def test_R3_an_iteration_based_run_is_bit_equal_from_any_checkpoint(
    leaves, unbroken, tmp_path, leaf, workers, step
):
    """Also where none validated before or behind it, and with other workers than before."""
    whole = unbroken(leaf)
    work_dir = cut_off(whole, tmp_path / 'work', f'iter_{step}.pth')
    train(leaves / f'{leaf}.py', work_dir, '--resume', options=workers)
    assert_equal(whole, work_dir, 'iter_9.pth')


@pytest.mark.parametrize(
    ('step', 'workers'), [(2, []), pytest.param(4, [WORKERS], marks=pytest.mark.slow)]
)
def test_R3_an_epoch_goes_on_in_its_middle(leaves, unbroken, tmp_path, step, workers):
    options = ['default_hooks.checkpoint.by_epoch=False']
    whole = unbroken('hst_tiny', *options)
    work_dir = cut_off(whole, tmp_path / 'work', f'iter_{step}.pth')
    train(leaves / 'hst_tiny.py', work_dir, '--resume', options=[*options, *workers])
    assert_equal(whole, work_dir, 'iter_9.pth')


def test_R3_images_that_are_skipped_are_not_read(leaves, unbroken, tmp_path, monkeypatch):
    work_dir = cut_off(unbroken('infinite'), tmp_path / 'work', 'iter_7.pth')
    read = []

    def count(dataset, indices):
        read.extend(indices)
        return original(dataset, indices)

    original = batches.read_samples
    monkeypatch.setattr(batches, 'read_samples', count)
    train(leaves / 'infinite.py', work_dir, '--resume')
    assert len(read) == 2 * 6, 'the two steps that were left'


@pytest.mark.parametrize('damage', ['truncated', 'empty', 'another'])
def test_R6_a_damaged_newest_checkpoint_is_skipped_and_named(
    leaves, unbroken, tmp_path, capsys, damage
):
    whole = unbroken('hst_tiny')
    work_dir = cut_off(whole, tmp_path / 'work', 'epoch_1.pth', 'epoch_2.pth')
    newest = work_dir / 'epoch_2.pth'
    content = newest.read_bytes()
    bad = {'truncated': content[: len(content) // 2], 'empty': b'', 'another': b'no checkpoint'}
    newest.write_bytes(bad[damage])
    if damage != 'truncated':
        path, checkpoint = latest_checkpoint(work_dir)
        assert path == work_dir / 'epoch_1.pth'
        assert tiny.same(checkpoint['state_dict'], tiny.load(path)['state_dict'])
    else:
        train(leaves / 'hst_tiny.py', work_dir, '--resume')
        assert_equal(whole, work_dir, LAST)
    said = [line for line in ''.join(capsys.readouterr()).splitlines() if 'skipped' in line]
    assert len(said) == 1
    assert str(newest) in said[0]


def test_R6_no_readable_checkpoint_is_an_error_and_not_a_fresh_start(
    leaves, unbroken, tmp_path, capsys
):
    work_dir = cut_off(unbroken('hst_tiny'), tmp_path / 'work', 'epoch_1.pth', 'epoch_2.pth')
    for path in work_dir.glob('epoch_*.pth'):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SystemExit) as exit_info:
        train(leaves / 'hst_tiny.py', work_dir, '--resume')
    assert exit_info.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f'train.py: error: none of the 2 checkpoints in {work_dir} can be read'
    assert len(list(work_dir.glob('epoch_*.pth'))) == 2


def test_R6_a_file_with_another_name_is_no_checkpoint(unbroken, tmp_path):
    work_dir = cut_off(unbroken('hst_tiny'), tmp_path / 'work', 'epoch_2.pth')
    for name in ('epoch_best.pth', 'epoch_10.pth.bak', 'iter_.pth'):
        (work_dir / name).write_bytes(b'')
    assert latest_checkpoint(work_dir)[0].name == 'epoch_2.pth'


def test_R7_resume_auto_starts_loudly_and_must_fails(leaves, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        train(leaves / 'hst_tiny.py', tmp_path / 'work', '--resume', 'must')
    assert exit_info.value.code == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == (
        f'train.py: error: --resume must: there is no checkpoint in {tmp_path / "work"}'
    )
    assert not (tmp_path / 'work').exists(), 'nothing is left of a refused run'
    once = ['train_cfg.max_epochs=1']
    work_dir = train(leaves / 'hst_tiny.py', tmp_path / 'work', '--resume', 'auto', options=once)
    assert f'no checkpoint in {work_dir}, so training starts' in ''.join(capsys.readouterr())
    train(leaves / 'hst_tiny.py', work_dir, '--resume', 'must')
    assert 'Epoch(train) [1]' not in ''.join(capsys.readouterr())
    assert (work_dir / LAST).is_file()


@pytest.mark.slow
def test_R10_a_moved_work_folder_goes_on(leaves, unbroken, tmp_path):
    whole = unbroken('hst_tiny')
    train(leaves / 'hst_tiny.py', tmp_path / 'a', options=['train_cfg.max_epochs=1'])
    (tmp_path / 'a').rename(tmp_path / 'b')
    train(leaves / 'hst_tiny.py', tmp_path / 'b', '--resume')
    assert not (tmp_path / 'a').exists()
    assert_equal(whole, tmp_path / 'b', LAST)


@pytest.mark.parametrize('leaf', ['hst_tiny', pytest.param('infinite', marks=pytest.mark.slow)])
def test_R11_resuming_a_finished_run_trains_nothing(leaves, unbroken, tmp_path, capsys, leaf):
    work_dir = shutil.copytree(unbroken(leaf), tmp_path / 'work')
    before = {path.name: path.read_bytes() for path in work_dir.glob('*.pth')}
    train(leaves / f'{leaf}.py', work_dir, '--resume')
    out = capsys.readouterr().out
    assert '(train)' not in out and 'delta: ' in out
    assert before == {path.name: path.read_bytes() for path in work_dir.glob('*.pth')}
    assert not list(work_dir.glob('earlier_*'))


def test_leaves_are_random_where_it_matters(unbroken):
    """What the comparisons above rest on: another seed ends elsewhere."""
    other = state(unbroken('hst_tiny', 'randomness.seed=1') / LAST)
    assert not tiny.same(state(unbroken('hst_tiny') / LAST)['state_dict'], other['state_dict'])
