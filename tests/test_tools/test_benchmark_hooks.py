"""The cost of our hooks is measured against mmengine's runner, and a slow hook is seen."""

import json
import time

import pytest

from hstpeft.engine import RNGStateHook
from tools.benchmarks import hooks


@pytest.mark.slow
def test_a_hook_that_takes_time_is_seen_by_both_measures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        RNGStateHook, 'after_train_iter', lambda *args, **kwargs: time.sleep(0.3), raising=False
    )
    out = tmp_path / 'out.json'
    small = ['--batch', '2', '--turns', '2', '--steps', '2', '--saves', '2', '--threads', '1']
    hooks.main([*small, '--work-dir', str(tmp_path / 'work'), '--out', str(out)])
    summary = json.loads(out.read_text())
    step = summary['results']['step, HST']
    ours, theirs = (step['seconds'][kind] for kind in hooks.KINDS)
    assert len(ours) == len(theirs) == 2 and min(ours) > 0.3
    # The sleep alone, however long the busy machine took for the rest.
    assert step['within_hooks']['low'] * max(ours) > 0.28
    full = summary['results']['save, full']
    # Weights and two moments of 5.6 million values, by either runner.
    assert min(full['ours_bytes'], full['mmengine_bytes']) > 60e6
    assert summary['weights'] == 'random' and summary['processor']
    assert 'within our hooks' in capsys.readouterr().out


def test_ratios_are_those_of_neighbouring_turns():
    result = hooks.compared({'ours': [2.0, 30.0, 4.0], 'mmengine': [1.0, 10.0, 4.0]})
    assert result['ratio'] == dict(median=2.0, low=1.5, high=2.5)
