"""`tools/check_reference.py` passes what is equal and fails, with status 1, what is not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.made_hst_cases import write_case
from tests.support.paths import REFERENCE
from tests.support.precisions import each_precision, each_precision_option
from tools import check_reference


def check(folder: Path, *options: str) -> int:
    return check_reference.main([str(folder), *options])


OTHERS = {
    'two meta tokens': dict(meta=2),
    'deeper with other side widths': dict(
        depth=8, depths=(2, 1, 3, 2), dims=(12, 16, 24, 32), side_heads=(3, 4, 2, 8)
    ),
    'train mode': dict(mode='train', seed=9),
    'train mode of two meta tokens': dict(mode='train', meta=2, labels=(1, 2, 0, 1)),
    'wide image without labels': dict(size=(32, 56), labels=None),
    'blocks behind the last stage': dict(depth=7),
    'blocks behind the last stage, no labels': dict(depth=7, labels=None),
    'narrow MLPs': dict(mlp_ratio=2.0),
    'drop path, which eval mode ignores': dict(rate=0.1),
}  # fmt: skip


@each_precision_option
def test_the_official_cases_pass(options, capsys):
    assert check(REFERENCE, '--system', 'hst', *options) == 0
    # mmengine prints its own warnings when the hosts are imported first.
    lines = capsys.readouterr().out.strip().splitlines()[-5:]
    assert lines[-1] == '4 passed, 0 failed'
    assert lines[0].startswith('hst/dense_features_64x96 ') and '  ok  max|d|=' in lines[0]
    assert all('max|d grad|=' in line for line in lines[:-1])


@each_precision
@pytest.mark.parametrize('other', OTHERS)
def test_other_sizes_seeds_and_options_pass(tmp_path, other, float64, capsys):
    write_case(tmp_path, **OTHERS[other])
    status = check(tmp_path, *(['--float64'] if float64 else []))
    assert status == 0, capsys.readouterr().out


def test_the_folder_of_one_system_may_be_given(tmp_path, capsys):
    write_case(tmp_path)
    assert check(tmp_path / 'hst', '--system', 'hst') == 0
    assert capsys.readouterr().out.startswith('hst/made')


def change_array(path: Path, name: str) -> None:
    with np.load(path.with_suffix('.npz')) as file:
        arrays = {key: file[key].copy() for key in file}
    values = arrays[name].reshape(-1)
    values[np.abs(values).argmax()] *= 1.1 if name == 'grad_sum' else 1.01
    np.savez(path.with_suffix('.npz'), **arrays)


ARRAYS = [
    'logits', 'stage1', 'stage4', 'pooled', 'loss', 'grad_l2', 'grad_sum', 'grad_probe',
    'grad/m_embeddings.0', 'grad/T_Bridge_4.weight', 'after/fc_norm.running_mean',
    'after/m_patch_embed1.conv.1.running_var',
]  # fmt: skip


@pytest.fixture(scope='module')
def train_case(tmp_path_factory):
    folder = tmp_path_factory.mktemp('case')
    write_case(folder, mode='train')
    assert check(folder) == 0
    return folder


@pytest.mark.parametrize('array', ARRAYS)
def test_one_changed_number_fails(train_case, tmp_path, array, capsys):
    shutil.copytree(train_case, tmp_path, dirs_exist_ok=True)
    change_array(tmp_path / 'hst' / 'made.json', array)
    assert check(tmp_path) == 1
    out = capsys.readouterr().out
    assert 'FAILED' in out and array.split('/')[0] in out and out.endswith('0 passed, 1 failed\n')


def test_a_changed_float64_logit_fails_in_float64(train_case, tmp_path, capsys):
    shutil.copytree(train_case, tmp_path, dirs_exist_ok=True)
    path = tmp_path / 'hst' / 'made.npz'
    arrays = dict(np.load(path))
    arrays['logits_float64'] = arrays['logits_float64'] + 1e-7
    np.savez(path, **arrays)
    assert check(tmp_path) == 0
    assert check(tmp_path, '--float64') == 1
    assert 'logits_float64' in capsys.readouterr().out


def one_more_trainable(meta: dict) -> None:
    entry = next(e for e in meta['parameters'] if e[0] == 'norm.weight')
    entry[2] = True
    meta['trainable_parameters'] += 32


def one_less_trainable(meta: dict) -> None:
    entry = next(e for e in meta['parameters'] if e[0] == 'blocks.1.norm1.bias')
    entry[2] = False
    meta['trainable_parameters'] -= 32


def other_count(meta: dict) -> None:
    meta['trainable_parameters'] += 1


def other_labels(meta: dict) -> None:
    meta['labels'] = [2, 2, 2]


def other_seed(meta: dict) -> None:
    meta['seed'] += 1


def unknown_system(meta: dict) -> None:
    meta['system'] = 'ladder'


def unknown_argument(meta: dict) -> None:
    meta['arguments']['number of wings'] = 2


def training_with_dropout(meta: dict) -> None:
    meta['arguments']['dropout, attention dropout, drop path'] = 0.1


def stages_that_do_not_fit(meta: dict) -> None:
    meta['arguments']['last backbone block of each stage (block_indices)'] = [1, 2, 3, 3]


def a_parameter_that_hst_lacks(meta: dict) -> None:
    meta['parameters'].append(['m_wing.weight', [2, 2], True])
    meta['trainable_parameters'] += 4


@pytest.mark.parametrize(
    'change, word',
    [
        (one_more_trainable, 'norm.weight'),
        (one_less_trainable, 'blocks.1.norm1.bias'),
        (other_count, 'trainable_parameters'),
        (other_labels, 'loss'),
        (other_seed, 'differ'),
        (unknown_system, "'ladder'"),
        (unknown_argument, 'number of wings'),
        (training_with_dropout, 'dropout'),
        (stages_that_do_not_fit, 'block_indices'),
        (a_parameter_that_hst_lacks, 'm_wing'),
    ],
)
def test_a_changed_description_fails(train_case, tmp_path, change, word, capsys):
    shutil.copytree(train_case, tmp_path, dirs_exist_ok=True)
    path = tmp_path / 'hst' / 'made.json'
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))
    assert check(tmp_path) == 1
    out = capsys.readouterr().out
    assert 'hst/made' in out and 'FAILED' in out and word in out


def test_one_failure_does_not_hide_the_other_cases(tmp_path, capsys):
    write_case(tmp_path, name='a')
    change_array(write_case(tmp_path, name='b'), 'logits')
    write_case(tmp_path, name='c', seed=1)
    assert check(tmp_path) == 1
    assert capsys.readouterr().out.endswith('2 passed, 1 failed\n')


@pytest.mark.parametrize('damage', ['json', 'npz', 'no npz'])
def test_a_damaged_case_is_a_failure_not_a_crash(tmp_path, damage, capsys):
    path = write_case(tmp_path)
    write_case(tmp_path, name='other')
    if damage == 'json':
        path.write_text('{"system": "hst"')
    elif damage == 'npz':
        path.with_suffix('.npz').write_bytes(b'PK')
    else:
        path.with_suffix('.npz').unlink()
    assert check(tmp_path) == 1
    assert capsys.readouterr().out.endswith('1 passed, 1 failed\n')


@pytest.mark.parametrize('options', [[], ['--system', 'arc']])
def test_no_cases_are_no_success(tmp_path, options, capsys):
    if options:
        write_case(tmp_path)
    assert check(tmp_path, *options) == 1
    assert capsys.readouterr().out.endswith('0 passed, 0 failed\n')
