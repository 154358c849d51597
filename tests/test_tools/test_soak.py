"""A short slice of the soak, and its checkers, which must see what they are there for."""

import copy
import json
import os
import random
import signal
import time

import pytest
import torch

from hstpeft.delta import load_checkpoint, save_delta
from hstpeft.engine.config import load_config
from tests.support import tiny
from tests.support.leaves import LEAVES
from tools import soak
from tools.soak_parts import checks, configs, corruptions, kills
from tools.soak_parts.config_mistakes import KINDS, Mistake, mistakes
from tools.soak_parts.toy import Variant, write_config, write_toy
from tools.soak_parts.victim import Trigger, read_trace

NOTES = [dict(what='train'), dict(what='step', iter=3)]


def slice_of(part: str, count: int, tmp_path) -> dict:
    """Run a part through the command line; returns its summary."""
    counts = [f'--{name}={count if name == part else 0}' for name in soak.DEFAULTS]
    out = tmp_path / 'soak.json'
    arguments = [*counts, '--seed', '7', '--work-dir', str(tmp_path / 'work'), '--out', str(out)]
    try:
        soak.main(arguments)
        status = 0
    except SystemExit as error:
        status = error.code
    summary = json.loads(out.read_text())['parts'][part]
    assert status == (1 if summary['failures'] else 0)
    return summary


@pytest.mark.slow
def test_R4_a_slice_of_random_kills_ends_with_the_same_weights(tmp_path):
    summary = slice_of('kills', 4, tmp_path)
    assert not summary['failures']
    assert summary['count'] == 4 and sum(summary['interruptions'].values()) >= 4


@pytest.mark.slow
def test_S13_a_slice_of_random_damages_is_refused_or_harmless(tmp_path):
    summary = slice_of('corruptions', 60, tmp_path)
    assert not summary['failures']
    assert summary['count'] == 120 and summary['refused'] > 60


@pytest.mark.slow
@pytest.mark.host
def test_U1_a_slice_of_wrong_configs_is_refused_in_one_line(tmp_path):
    summary = slice_of('configs', 20, tmp_path)
    assert not summary['failures']
    assert summary['refused'] == summary['count'] == 20
    assert not any((tmp_path / 'work' / 'configs').iterdir())


def test_configs_that_are_accepted_or_end_in_a_traceback_are_failures(
    tmp_path, monkeypatch, capsys
):
    mistake = Mistake('wrong_kind', 'model.head', 5)
    trials = [
        configs.Trial('detection', mistake, 'file', outcome, 'what was said', False)
        for outcome in ('refused', 'accepted', 'traceback')
    ]
    monkeypatch.setattr(configs, '_trials', lambda folder, count, rng: trials)
    summary = slice_of('configs', 3, tmp_path)
    told = 'detection, wrong_kind by file: model.head=5: what was said'
    assert summary['failures'] == [
        dict(error='accepted', config=told),
        dict(error='traceback', config=told),
    ]
    assert summary['key_not_named'] == [told]
    assert (summary['refused'], summary['kinds']) == (1, {'wrong_kind': 3})
    assert capsys.readouterr().out.count('configs failed: ') == 2


def test_mistakes_are_of_all_kinds_and_repeat_with_their_seed():
    config = load_config(LEAVES['hst_vit-mini_1xb32-12e_rendered']).to_dict()
    drawn = [mistakes(config, random.Random(3)) for _ in range(2)]
    first, second = ([repr(next(stream)) for _ in range(60)] for stream in drawn)
    assert first == second
    assert all(any(kind.__name__ in text for text in first) for kind in KINDS)


@pytest.fixture(params=corruptions.SUFFIXES)
def delta(trained, tmp_path, request):
    """A delta on the disk, and what it holds."""
    path = tmp_path / f'delta{request.param}'
    save_delta(load_checkpoint(trained.delta), path)
    return path, load_checkpoint(path)


def test_a_changed_weight_is_seen_by_both_checkers(trained, delta, tmp_path):
    """The control: one bit of one weight, in a file that is valid in all else."""
    path, holds = delta
    assert corruptions.read(path, holds) == 'harmless'
    changed = copy.deepcopy(holds)
    weight = changed['state_dict']['head.fc.weight']
    weight.view(torch.int32)[0, 0] ^= 1
    save_delta(changed, path)
    named = '1 values differ: checkpoint.state_dict.head.fc.weight'
    assert named in corruptions.read(path, holds)
    other = tmp_path / 'work'
    other.mkdir()
    for file in ('delta.pth', 'epoch_3.pth'):
        (other / file).write_bytes((trained.work_dir / file).read_bytes())
    assert not checks.end_error(other, trained.work_dir)
    save_delta(changed, other / 'delta.pth')
    assert checks.end_error(other, trained.work_dir) == (
        'delta.pth: 1 values differ: state_dict.head.fc.weight'
    )


class Bad:
    """Does something to whoever reads it from a pipe."""

    def __init__(self, function, *args) -> None:
        self.does = function, args

    def __reduce__(self):
        """Do it."""
        return self.does


@pytest.mark.slow
def test_a_reader_that_crashes_or_hangs_is_seen_and_replaced(delta, monkeypatch):
    path, _ = delta
    reader = corruptions.Reader(path)
    assert reader.read(Bad(os._exit, 11)) == 'crashes with status 11'
    assert reader.read(Bad(os.kill, reader.process.pid, signal.SIGKILL)).endswith('status -9')
    assert reader.read(path) == 'harmless'
    monkeypatch.setattr(corruptions, 'HANG_SECONDS', 1)
    assert reader.read(Bad(time.sleep, 60)) == 'hangs for 1 s'
    reader.close()


def test_metadata_types_and_nan_count_as_differences_and_equals():
    nan = torch.tensor([float('nan')])
    assert not checks.differences({'a': [nan, 1]}, {'a': [nan.clone(), 1]})
    assert checks.differences({'a': 1}, {'a': True}, 'meta') == ['meta.a']
    assert checks.differences({'a': 1}, {'b': 1}, 'meta') == ['meta (its keys)']
    assert checks.differences([0.0, torch.tensor(0.0)], [0.0, torch.tensor(-0.0)], 'x') == ['x.1']


def test_files_without_a_checkpoint_or_with_a_rest_are_seen(trained, tmp_path):
    trace = [*NOTES, dict(what='save')]
    (tmp_path / 'epoch_1.pth').write_bytes(b'torn')
    assert not checks.folder_error(tmp_path, -9, NOTES, saved=False)
    assert 'epoch_1.pth' in checks.folder_error(tmp_path, -9, trace, saved=True)
    (tmp_path / 'epoch_3.pth').write_bytes((trained.work_dir / 'epoch_3.pth').read_bytes())
    assert not checks.folder_error(tmp_path, -9, trace, saved=True)
    (tmp_path / 'last_checkpoint').write_text('epoch_1.pth')
    assert 'last_checkpoint' in checks.folder_error(tmp_path, -9, trace, saved=True)
    (tmp_path / 'last_checkpoint').unlink()
    late = [dict(what='step', iter=tiny.EPOCHS * tiny.STEPS)]
    assert 'though step 10 was done' in checks.folder_error(tmp_path, 75, late, saved=True)
    (tmp_path / '.delta.pth.tmp').touch()
    assert 'left behind' in checks.end_error(tmp_path, trained.work_dir)


@pytest.mark.slow
@pytest.mark.parametrize(
    'trigger, status, last',
    [
        (Trigger('write', at=1, size=1234), -signal.SIGXFSZ, 'fired'),
        (Trigger('call', 'SIGKILL', at=1), -signal.SIGKILL, 'fired'),
        (Trigger('step', 'SIGKILL', at=2), -signal.SIGKILL, 'fired'),
        (Trigger(), 0, 'call'),
    ],
    ids=lambda value: getattr(value, 'kind', ''),
)
def test_interruptions_strike_where_they_are_told(tmp_path, trigger, status, last):
    write_toy(tmp_path)
    trial = kills.Trial(tmp_path / 'trial', write_config(tmp_path, Variant()), Variant())
    assert trial.attempt(trigger) == status, trial.log_end()
    trace = read_trace(trial.folder)
    assert trace[-1]['what'] == last
    steps = [note['iter'] for note in trace if note['what'] == 'step']
    assert steps[-1] == {'step': 2, 'never': 14}.get(trigger.kind, steps[-1])
    sizes = [path.stat().st_size for path in trial.work_dir.iterdir()]
    assert (1234 in sizes) == (trigger.kind == 'write')


@pytest.mark.parametrize(
    'status, name, stepped, holds',
    [
        (-signal.SIGKILL, 'SIGKILL', True, True),
        (75, 'SIGTERM', True, True),
        (-signal.SIGTERM, 'SIGTERM', False, True),
        (-signal.SIGTERM, 'SIGTERM', True, False),
        (0, 'SIGTERM', True, False),
        (1, 'SIGINT', True, False),
        (None, 'SIGTERM', True, False),
    ],
)
def test_only_the_documented_exit_statuses_pass(status, name, stepped, holds):
    trace = [*(NOTES if stepped else NOTES[:1]), dict(what='fired', signal=name)]
    trigger = Trigger('step', name, at=3)
    assert (checks.status_error(status, trigger, trace, steps=9) == '') == holds


def test_every_damage_of_a_seed_is_the_same_and_changes_the_file(delta):
    path, _ = delta
    whole = path.read_bytes()
    spans = corruptions.structure(whole, path.suffix)
    made = [corruptions.damage(whole, spans, random.Random(i)) for i in range(200)]
    assert made == [corruptions.damage(whole, spans, random.Random(i)) for i in range(200)]
    assert {what.partition(':')[0] for _, what in made} == set(corruptions.DAMAGES)
    assert sum(damaged == whole for damaged, _ in made) < 10
