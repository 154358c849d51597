"""Every tuner under one budget: it goes on where it was stopped, and the committed table is that of its runs."""

import json

import pytest

from tests.support import tiny
from tests.support.paths import ROOT
from tools import compare_tuners
from tools.benchmarks.tuner_table import draw, summarise, to_markdown

RUNS = ROOT / 'docs/benchmarks/tuners'
COST = ROOT / 'docs/benchmarks/tuners_cost.json'


def committed() -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(RUNS.glob('*_test_*.json'))]


def test_the_committed_page_has_the_table_of_the_committed_runs():
    rows = summarise(committed(), compare_tuners.TASKS, COST)
    assert to_markdown(rows, compare_tuners.TASKS) in (RUNS.parent / 'tuners.md').read_text()


def test_every_tuner_part_was_compared_at_the_best_of_its_rates():
    runs = [json.loads(path.read_text()) for path in RUNS.glob('*.json')]
    for tuner in compare_tuners.list_tuners():
        own = [run for run in runs if run['tuner'] == tuner]
        searched = {run['lr']: run['accuracy'] for run in own if run['split'] == 'val200'}
        assert searched.keys() == set(compare_tuners.RATES.get(tuner, compare_tuners.USUAL_RATES))
        tested = {(run['task'], run['seed']): run['lr'] for run in own if run['split'] == 'test'}
        assert len(tested) == len(compare_tuners.TASKS) * len(compare_tuners.SEEDS)
        assert {searched[lr] for lr in tested.values()} == {max(searched.values())}


def test_a_picture_shows_every_tuner(tmp_path):
    rows = summarise(committed(), compare_tuners.TASKS)
    draw(rows, compare_tuners.TASKS, tmp_path / 'picture.svg')
    text = (tmp_path / 'picture.svg').read_text()
    assert all(f'<!-- {row.tuner} -->' in text for row in rows)


def test_what_is_missing_or_unknown_is_one_line(tmp_path, capsys):
    weights = tmp_path / 'none.safetensors'
    common = ['--root', str(tmp_path), '--out', str(tmp_path)]
    with pytest.raises(SystemExit):
        compare_tuners.main(['--weights', str(weights), *common])
    assert (
        capsys.readouterr().err == f'compare_tuners.py: error: --weights {weights} does not exist\n'
    )
    weights.touch()
    with pytest.raises(SystemExit):
        compare_tuners.main(['--weights', str(weights), *common, '--tuners', 'arcc'])
    assert "'arcc' is unknown: did you mean 'arc'?" in capsys.readouterr().err


@pytest.mark.slow
def test_a_tuner_is_compared_and_not_again(tmp_path, monkeypatch, capsys):
    task = tiny.make_task(tmp_path / 'task')
    monkeypatch.setattr(compare_tuners, 'TASKS', ('data',))
    monkeypatch.setattr(compare_tuners, 'SEEDS', (0,))
    monkeypatch.setattr(compare_tuners, 'USUAL_RATES', (1e-3, 1e-2))
    small = 'dict(embed_dim=32, depth=4, num_heads=2, img_size=32, patch_size=8)'
    leaf = compare_tuners.LEAF.replace(
        "weights='{weights}'", f"weights='{{weights}}', arch_options={small}"
    )
    leaf = leaf.replace('width = {width}', 'width = 32')
    monkeypatch.setattr(
        compare_tuners, 'LEAF', leaf.replace('num_workers=0', 'num_workers=0, batch_size=8')
    )
    for split, size in (('train800', 16), ('val200', 6)):
        lines = (task.data / 'train800val200.txt').read_text().splitlines(keepends=True)
        (task.data / f'{split}.txt').write_text(''.join(lines[:size]))
    call = ['--weights', str(task.weights), '--root', str(task.data.parent), '--out', str(tmp_path / 'out'),
            '--work-dir', str(tmp_path / 'work'), '--tuners', 'arc']  # fmt: skip
    compare_tuners.main(call)
    runs = sorted((tmp_path / 'out').glob('*.json'))
    assert len(runs) == 3 and '| arc |' in capsys.readouterr().out
    times = [path.stat().st_mtime_ns for path in runs]
    compare_tuners.main(call)
    assert [path.stat().st_mtime_ns for path in runs] == times
