"""tools/analysis/analyze_logs.py: attempts are joined, the right value is the best one."""

import json
import math
from pathlib import Path

import mmcv
import pytest

from tools.analysis.analyze_logs import main, read_run


def train_line(step: int, loss: float, time: float = 0.5, **more: float) -> str:
    return json.dumps(dict(lr=0.1, loss=loss, time=time, epoch=1, iter=step, step=step, **more))


def val_line(step: int, **metrics: float) -> str:
    return json.dumps(dict(metrics, data_time=0.1, time=9.0, step=step))


def write(work_dir: Path, stamp: str, *lines: str, end: str = '\n') -> Path:
    path = work_dir / stamp / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(lines) + end)
    return path


@pytest.fixture
def resumed(tmp_path) -> Path:
    """Killed in the second epoch, while it wrote a line; resumed after the first epoch."""
    work_dir = tmp_path / 'resumed'
    lines = [train_line(10, 3.0), train_line(20, 2.0), val_line(1, mIoU=40.0)]
    write(work_dir, '20260101_000000', *lines, train_line(30, 99.0), '{"lr": 0.1, "lo', end='')
    lines = [train_line(30, 1.5, 0.7), train_line(40, 1.8, 0.7), val_line(2, mIoU=60.0)]
    write(
        work_dir, '20260102_000000', *lines, train_line(50, math.nan, 0.7), val_line(3, mIoU=50.0)
    )
    return work_dir


def test_the_attempts_of_a_run_are_one(resumed):
    run = read_run(resumed)
    assert run.curves['loss'].steps == [10, 20, 30, 40, 50]
    assert run.curves['loss'].values[:4] == [3.0, 2.0, 1.5, 1.8]
    assert run.curves['mIoU'] == ([1, 2, 3], [40.0, 60.0, 50.0])
    assert run.iteration_s == pytest.approx((2 * 0.5 + 3 * 0.7) / 5)
    assert max(run.curves['time'].values) == 0.7, 'the time of a validation'


def test_a_run_that_began_anew_forgets_what_was_before(tmp_path):
    write(
        tmp_path, '20260101_000000', train_line(10, 3.0), train_line(20, 2.0), val_line(1, mIoU=4)
    )
    write(tmp_path, '20260102_000000', train_line(10, 5.0))
    run = read_run(tmp_path)
    assert run.curves['loss'] == ([10], [5.0])
    assert 'mIoU' not in run.curves


def test_an_attempt_without_an_iteration_takes_nothing_away(resumed):
    write(resumed, '20260103_000000', end='')
    assert read_run(resumed).curves['loss'].steps == [10, 20, 30, 40, 50]


def test_table_and_json(resumed, tmp_path, capsys):
    out = tmp_path / 'rows.json'
    rows = main([str(resumed), '--out', str(out)])
    common = dict(run='resumed', iteration_s=pytest.approx(0.62))
    loss = dict(common, key='loss', last=None, last_step=50, best=1.5, best_step=30)
    miou = dict(common, key='mIoU', last=50.0, last_step=3, best=60.0, best_step=2)
    assert json.loads(out.read_text()) == [loss, miou]
    assert math.isnan(rows[0]['last'])
    printed = capsys.readouterr().out
    assert all(word in printed for word in ('resumed', 'loss', '1.5', 'mIoU', '60', '0.62'))


@pytest.mark.parametrize(
    'key, best',
    [
        ('loss', 1.0),
        ('decode.loss_ce', 1.0),
        ('aux.acc_seg', 2.0),
        ('coco/bbox_mAP', 2.0),
        ('time', 1.0),
    ],
)
def test_what_is_best(tmp_path, key, best):
    lines = [json.dumps({'iter': step, 'step': step, key: float(step)}) for step in (1, 2)]
    write(tmp_path, '20260101_000000', *lines)
    assert main([str(tmp_path), '--keys', key])[0]['best'] == best


def test_main_metrics_of_detection_are_shown_unasked(tmp_path):
    lines = [train_line(10, 3.0, loss_rpn=1.0), val_line(1, **{'coco/bbox_mAP': 0.3, 'coco/x': 1})]
    write(tmp_path, '20260101_000000', *lines)
    assert [row['key'] for row in main([str(tmp_path)])] == ['loss', 'coco/bbox_mAP']


def test_plot_of_two_runs(resumed, trained, tmp_path):
    pictures = []
    for keys in (['loss'], ['loss', 'mIoU']):
        path = tmp_path / 'new' / f'{len(keys)}.png'
        main([str(resumed), str(trained.work_dir), '--keys', *keys, '--plot', str(path)])
        pictures.append(mmcv.imread(path))
    assert pictures[1].shape[0] == 2 * pictures[0].shape[0], 'one panel a key'
    assert all(picture.std() > 5 for picture in pictures)


def test_a_real_training(trained):
    rows = {row['key']: row for row in main([str(trained.work_dir)])}
    assert rows.keys() == {'loss', 'accuracy/top1'}
    assert rows['loss']['last_step'] == 9
    assert rows['accuracy/top1']['last_step'] == 3
    assert 0 < rows['loss']['iteration_s'] < 60
    (log,) = trained.work_dir.glob('*/vis_data/scalars.json')
    assert read_run(log).curves == read_run(trained.work_dir).curves


def no_log(folder: Path) -> list[str]:
    return [str(folder)]


def broken_line(folder: Path) -> list[str]:
    write(folder, '20260101_000000', train_line(10, 3.0), '{"loss": ', train_line(30, 2.0))
    return [str(folder)]


def empty_log(folder: Path) -> list[str]:
    write(folder, '20260101_000000', end='')
    return [str(folder)]


def unknown_key(folder: Path) -> list[str]:
    write(folder, '20260101_000000', train_line(10, 3.0), val_line(1, mIoU=4.0))
    return [str(folder), '--keys', 'loss', 'mIou']


def nothing_usual(folder: Path) -> list[str]:
    write(folder, '20260101_000000', val_line(1, mDice=4.0))
    return [str(folder)]


def strange_format(folder: Path) -> list[str]:
    write(folder, '20260101_000000', train_line(10, 3.0))
    return [str(folder), '--plot', str(folder / 'curves.xyz')]


@pytest.mark.parametrize(
    'make, message',
    [
        (no_log, 'holds no <time>/vis_data/scalars.json'),
        (broken_line, 'line 2 of'),
        (empty_log, 'nothing was logged yet'),
        (unknown_key, "--keys mIou was not logged: did you mean 'mIoU'?"),
        (nothing_usual, 'give --keys: data_time, mDice, time'),
        (strange_format, '--plot'),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, make, message):
    with pytest.raises(SystemExit):
        main(make(tmp_path))
    error = capsys.readouterr().err
    assert error.startswith('analyze_logs.py: error: ')
    assert message in error
    assert len(error.splitlines()) == 1
