"""Every named case has a test, and docs/reliability.md names the tests that there are."""

from types import SimpleNamespace

import pytest

from tests.support.reliability_cases import CASES
from tests.support.reliability_table import (
    DOCUMENT,
    ReliabilityTable,
    cases_of,
    find_tests,
    read_document,
    soak_line,
)

TESTS = find_tests()
NUMBERS = dict(R=11, C=9, N=7, D=7, X=8, U=6, S=14)
NAMED = [f'{letter}{i + 1}' for letter, count in NUMBERS.items() for i in range(count)]


def test_the_cases_are_the_62_and_each_has_a_title():
    assert [case for cases in CASES.values() for case in cases] == NAMED
    assert len(NAMED) == 62
    assert all(title and '|' not in title for cases in CASES.values() for title in cases.values())


def test_each_case_has_a_test_and_no_test_names_another():
    assert not [case for case in NAMED if case not in TESTS]
    assert not {case: tests for case, tests in TESTS.items() if case not in NAMED}


def test_the_committed_table_names_the_tests_that_there_are(request):
    if request.config.getoption('--write-reliability'):
        pytest.skip('this run writes it')
    assert DOCUMENT.is_file(), 'bash tools/run_tests.sh --write-reliability'
    text = DOCUMENT.read_text()
    expected = {case: {(t.words, t.file) for t in TESTS.get(case, ())} for case in NAMED}
    assert read_document(text) == expected, 'stale: bash tools/run_tests.sh --write-reliability'
    assert '**not run**' not in text, 'written by a run of some tests only'


@pytest.fixture
def two_tests(tmp_path):
    """Two files of tests, not of ours, and what is found in them."""
    folder = tmp_path / 'tests'
    folder.mkdir()
    (folder / 'test_a.py').write_text(
        'class TestIt:\n    def test_R1_R2_is_equal(self): ...\n\ndef test_R1_again(): ...\n'
        'def test_other(): ...\n'
    )
    return find_tests(folder)


def report(node: str, outcome: str, when: str = 'call', longrepr: tuple | None = None):
    """What pytest reports of a phase of a test."""
    flags = dict(failed=outcome == 'failed', skipped=outcome == 'skipped')
    return SimpleNamespace(nodeid=node, when=when, longrepr=longrepr, **flags)


def test_the_names_of_tests_lead_to_their_cases(two_tests):
    assert cases_of('test_R10_moved') == ['R10'] and cases_of('test_S1_S13_x') == ['S1', 'S13']
    assert cases_of('test_SSF_merges') == cases_of('test_r1_x') == cases_of('test_R4') == []
    assert {case: [t.words for t in tests] for case, tests in two_tests.items()} == {
        'R1': ['is equal', 'again'],
        'R2': ['is equal'],
    }


def test_the_table_counts_parameters_and_names_failures_and_reasons(two_tests):
    table = ReliabilityTable()
    first, second = 'tests/test_a.py::TestIt::test_R1_R2_is_equal', 'tests/test_a.py::test_R1_again'
    table.pytest_runtest_logreport(report(f'{first}[1]', 'passed'))
    table.pytest_runtest_logreport(report(f'{first}[2]', 'failed'))
    table.pytest_runtest_logreport(report(f'{first}[2]', 'passed', 'teardown'))
    reason = ('file', 3, 'Skipped: needs a | GPU')
    table.pytest_runtest_logreport(report(second, 'skipped', 'setup', reason))
    text = table.render(two_tests)
    row = next(line for line in text.splitlines() if line.startswith('| R1 |'))
    assert row.endswith(
        '| **fails** | [is equal](../tests/test_a.py): passed 1, failed 1<br>'
        r'[again](../tests/test_a.py): skipped (needs a \| GPU) |'
    )
    assert '**Cases**: 2 **fail**, 60 **not run**' in text
    assert '**Whole suite**: 1 passed, 1 skipped, 1 failed' in text
    assert read_document(text)['R1'] == {
        ('is equal', 'tests/test_a.py'),
        ('again', 'tests/test_a.py'),
    }
    assert read_document(text)['R3'] == set()
    assert '62 **not run**' in ReliabilityTable().render(two_tests)


def test_a_case_holds_where_a_test_passed_and_is_skipped_where_none_ran(two_tests):
    table = ReliabilityTable()
    table.pytest_runtest_logreport(report('tests/test_a.py::test_R1_again[a]', 'passed'))
    assert table.case_result(two_tests['R1']) == '**not run**'  # its other test
    table.pytest_runtest_logreport(
        report('tests/test_a.py::TestIt::test_R1_R2_is_equal', 'skipped', 'setup', ('', 1, 'no'))
    )
    assert table.case_result(two_tests['R1']) == 'holds'
    assert table.case_result(two_tests['R2']) == 'skipped'


def test_a_soak_is_told_with_its_failures(tmp_path):
    path = tmp_path / 'soak.json'
    assert soak_line(path) == 'not run'
    path.write_text(
        '{"seed": 7, "date": "2026-01-01", "processor": "P", "parts": '
        '{"kills": {"count": 1200, "failures": [{}]}, '
        '"corruptions": {"count": 20, "failures": [], "refused": 19, "harmless": 1}}}'
    )
    assert soak_line(path) == (
        '1,200 kills: **1 failed**; 20 corruptions: 19 refused, 1 harmless, none failed '
        '([seed 7, 2026-01-01, P](benchmarks/soak.json))'
    )
