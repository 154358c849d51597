"""`tools/check_reference.py` on the tuners that papers compare with: official cases, others, what must fail."""

import pytest

from tests.support import baseline_cases, convolution_cases, merging_cases
from tests.support.changed_cases import (
    change_description,
    change_number,
    check,
    list_cases,
    write_case,
)
from tests.support.paths import REFERENCE
from tests.support.precisions import each_precision, each_precision_option

TABLES = (baseline_cases, convolution_cases, merging_cases)
NUM_OFFICIAL = {system: count for table in TABLES for system, count in table.NUM_OFFICIAL.items()}
OTHERS = {write: cases for table in TABLES for write, cases in table.OTHERS.items()}
NUMBERS = [row for table in TABLES for row in table.NUMBERS]
CHANGES = [row for table in TABLES for row in table.CHANGES]


def test_every_folder_of_official_cases_is_checked_in_full():
    for system, count in NUM_OFFICIAL.items():
        assert len(list((REFERENCE / system).glob('*.npz'))) == count


@each_precision_option
@pytest.mark.parametrize('system', NUM_OFFICIAL)
def test_the_official_cases_pass(system, options, capsys):
    assert check(REFERENCE, '--system', system, *options) == 0
    assert capsys.readouterr().out.endswith(f'{NUM_OFFICIAL[system]} passed, 0 failed\n')


@each_precision
@pytest.mark.parametrize(('write', 'options'), list_cases(OTHERS))
def test_other_sizes_seeds_and_options_pass(tmp_path, write, options, float64, capsys):
    write_case(write, tmp_path, options)
    status = check(tmp_path, *(['--float64'] if float64 else []))
    assert status == 0, capsys.readouterr().out


@pytest.mark.parametrize(('write', 'options', 'array'), NUMBERS)
def test_one_changed_number_fails(tmp_path, write, options, array, capsys):
    change_number(write(tmp_path, options), array)
    assert check(tmp_path) == 1
    out = capsys.readouterr().out
    assert 'FAILED' in out and array in out


@pytest.mark.parametrize(('write', 'change', 'word'), CHANGES)
def test_a_changed_description_fails(tmp_path, write, change, word, capsys):
    change_description(write(tmp_path, {}), change)
    assert check(tmp_path) == 1
    out = capsys.readouterr().out
    assert 'FAILED' in out and any(part in out for part in word.split('|')), out
