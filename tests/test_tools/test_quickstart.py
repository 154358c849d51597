"""The quickstart's report, and what it does with work that is done or fails."""

import json
import os
import shutil
import sys

import pytest

from hstpeft.delta import owner_table
from hstpeft.engine.config import load_config
from hstpeft.errors import UserError
from tests.support import tiny
from tools import quickstart
from tools.analysis import get_flops


@pytest.fixture
def result():
    return quickstart.Result(
        method='hst',
        accuracy=91.25,
        trainable=250_000,
        total=1_000_000,
        delta_bytes=1_500_000,
        seconds=61.4,
        peak_mb=812.3,
        curve=[(1, 20.0), (2, 91.25)],
    )


def test_the_report_is_a_table_a_json_and_a_picture(result, tmp_path, capsys):
    quickstart.report([result], tmp_path)
    row = '| HST | 91.2 % | 250,000 | 25.0 % | 1.50 MB | 61 s | 812 MB |'
    assert row in (tmp_path / 'report.md').read_text()
    assert json.loads((tmp_path / 'report.json').read_text())[0]['accuracy'] == 91.25
    assert (tmp_path / 'learning_curve.png').read_bytes().startswith(b'\x89PNG')
    assert '91.2 %' in capsys.readouterr().out


def test_what_is_done_is_not_done_again(result, tmp_path, monkeypatch):
    (tmp_path / 'result.json').write_text(json.dumps(quickstart.asdict(result)))
    monkeypatch.setattr(quickstart, 'run', lambda *_: pytest.fail('a tool was started'))
    again = quickstart.train_and_test('hst', tmp_path / 'config.py', tmp_path, {})
    assert again.accuracy == result.accuracy


def test_a_tool_that_fails_gives_its_own_last_line(tmp_path):
    command = [sys.executable, '-c', 'print("train.py: error: no disk"); raise SystemExit(1)']
    with pytest.raises(UserError, match=r'train.py: error: no disk \(whole log'):
        quickstart.run(command, dict(os.environ), tmp_path / 'log.txt')


def test_an_attempt_that_was_cut_short_counts_in_the_seconds(tmp_path, monkeypatch):
    (tmp_path / 'seconds.txt').write_text('100.0')

    def fail(*_):
        raise UserError('cut short')

    monkeypatch.setattr(quickstart, 'run', fail)
    with pytest.raises(UserError, match='cut short'):
        quickstart.train_and_test('hst', tmp_path / 'config.py', tmp_path, {})
    assert 100 <= float((tmp_path / 'seconds.txt').read_text()) < 110


@pytest.mark.slow
def test_a_row_holds_what_the_tools_wrote(trained, tmp_path):
    """Of a run that is trained already, so that only the test and the count are left."""
    work_dir = tmp_path / 'hst'
    shutil.copytree(trained.work_dir, work_dir)
    env = {**os.environ, 'PYTHONPATH': str(tiny.ROOT)}
    result = quickstart.train_and_test('hst', trained.task.hst, work_dir, env)
    rows = owner_table(get_flops.build(load_config(trained.task.hst)))
    assert (result.trainable, result.total) == tuple(sum(row[i] for row in rows) for i in (1, 2))
    assert result.trainable < result.total
    assert result.delta_bytes == (work_dir / 'delta.pth').stat().st_size
    assert [epoch for epoch, _ in result.curve] == [tiny.EPOCHS]
    assert result.accuracy == json.loads((work_dir / 'metrics.json').read_text())['accuracy/top1']
    assert json.loads((work_dir / 'result.json').read_text())['peak_mb'] == result.peak_mb


def test_fresh_forgets_the_quickstarts_own_files_only(tmp_path):
    for name in ('result.json', 'epoch_3.pth', 'delta.pth', 'notes_of_the_user.txt'):
        (tmp_path / name).write_text('')
    quickstart.forget(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['notes_of_the_user.txt']
