"""Errors before the first step is over: one line that names key, value and what was said."""

import pytest
from mmengine.config import Config

from hstpeft.engine.checks.building import one_line_until
from hstpeft.errors import NonFiniteError, UserError
from hstpeft.registry import MODELS

CFG = Config(
    dict(
        model=dict(
            type='hstpeft.SimpleFeaturePyramid',
            neck=[dict(type='hstpeft.PooledNorm', in_channels=8, in_chanels=8)],
        ),
        other=3,
    )
)


@pytest.fixture
def fail():
    """Raise an error under the conversion, before or after a first step."""

    def run(error: Exception, has_begun: bool = False) -> None:
        with one_line_until(lambda: has_begun, CFG, lambda: None):
            raise error

    return run


def test_part_inside_a_list_is_named_with_its_options_and_the_nearest_argument():
    with (
        pytest.raises(UserError) as raised,
        one_line_until(lambda: False, CFG, lambda: None),
    ):
        MODELS.build(CFG.model.neck[0])
    line = str(raised.value)
    assert line.startswith("config: model.neck.0 {'type': 'hstpeft.PooledNorm', 'in_channels': 8")
    assert "'in_chanels', did you mean 'in_channels'? (HSTPEFT_TRACEBACK=1 shows where)" in line


def test_error_of_later_keeps_its_traceback(fail):
    with pytest.raises(ZeroDivisionError, match=r'^a bug$'):
        fail(ZeroDivisionError('a bug'), has_begun=True)


def test_errors_of_users_pass_as_they_are(fail):
    with pytest.raises(NonFiniteError, match=r'^the loss is nan$'):
        fail(NonFiniteError('the loss is nan'))


def test_error_without_words_shows_the_line_that_raised_it(fail):
    with pytest.raises(UserError, match=r'AssertionError: raise error'):
        fail(AssertionError())


def test_missing_module_gives_the_pip_line(fail):
    error = ModuleNotFoundError("No module named 'neptune.x'", name='neptune.x')
    with pytest.raises(UserError, match=r'neptune\.x.+, pip install neptune '):
        fail(error)


def test_several_lines_become_one(fail):
    with pytest.raises(UserError) as raised:
        fail(RuntimeError('one\n  two'))
    assert 'one two' in str(raised.value)
    assert '\n' not in str(raised.value)


def test_what_a_worker_raised_is_shown_in_full_and_ends_in_one_line(fail, capsys):
    text = 'Caught in worker 0.\nOriginal Traceback (most recent call last):\n  x\nOSError: broken'
    with pytest.raises(UserError, match=r'OSError: broken \(HSTPEFT') as raised:
        fail(OSError(text))
    assert 'Traceback (' not in str(raised.value)
