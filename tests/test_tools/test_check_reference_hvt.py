"""`tools/check_reference.py` on HVT: the official cases, other options, and what must fail."""

import shutil
from pathlib import Path

import pytest

from tests.support.changed_cases import argument, change_description, change_number, check
from tests.support.made_hvt_cases import write_hvt_case
from tests.support.paths import REFERENCE
from tests.support.precisions import each_precision, each_precision_option

OTHERS = {
    'defaults': {},
    'train mode, another seed': dict(mode='train', seed=9, labels=(1, 2, 0, 1)),
    'no labels': dict(labels=None),
    'pools nowhere': dict(pool_width=None),
    'pools in every block': dict(pool_width=1, size=(48, 48)),
    'other windows': dict(kernel=4, stride=3),
    'wide image': dict(size=(32, 56)),
    'deep and narrow': dict(depth=9, width=16, heads=4, pool_width=4, patch=4),
    'one block': dict(depth=1),
    'more classes': dict(classes=11, labels=(10, 0)),
    'narrow MLPs, no query bias': dict(mlp_ratio=2, qkv_bias=False),
}


@each_precision_option
def test_the_official_cases_pass(options, capsys):
    assert check(REFERENCE, '--system', 'hvt', *options) == 0
    out = capsys.readouterr().out
    for case in ('pool_every3_train', 'pool_every12_eval'):
        assert f'hvt/{case} ' in out
    assert out.endswith('2 passed, 0 failed\n')


@each_precision
@pytest.mark.parametrize('other', OTHERS)
def test_other_sizes_seeds_and_options_pass(tmp_path, other, float64, capsys):
    write_hvt_case(tmp_path, **OTHERS[other])
    status = check(tmp_path, *(['--float64'] if float64 else []))
    assert status == 0, capsys.readouterr().out


@pytest.fixture(scope='module')
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('case')
    write_hvt_case(folder)
    assert check(folder) == 0
    return folder


ARRAYS = [
    'block0', 'last_block', 'feature', 'logits', 'loss', 'sequence_lengths', 'grad_l2', 'grad_sum',
    'grad_probe', 'grad/pos_embed', 'grad/blocks.0.norm1.weight', 'grad/head.bias',
]  # fmt: skip


@pytest.mark.parametrize('array', ARRAYS)
def test_one_changed_number_fails(made, tmp_path, array, capsys):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    change_number(tmp_path / 'hvt' / 'made.json', array)
    assert check(tmp_path) == 1
    out = capsys.readouterr().out
    assert 'FAILED' in out and array.split('/')[0] in out


def other_heads(meta: dict) -> None:
    meta['arguments'] |= {'heads': 4, 'head size': 8}


def one_less_trainable(meta: dict) -> None:
    meta['parameters'][0][2] = False
    meta['trainable_parameters'] -= 16 * 32


@pytest.mark.parametrize(
    'change, word',
    [
        (argument('pool stride (constant)', 1), 'blocks.0.pos_embed'),
        (argument('pool_block_width', 3), 'blocks.2.pos_embed'),
        (argument('heads', 4), 'head size'),
        (other_heads, 'differ'),
        (argument('number of wings', 2), 'number of wings'),
        (one_less_trainable, 'pos_embed'),
    ],
)
def test_a_changed_description_fails(made, tmp_path, change, word, capsys):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    change_description(tmp_path / 'hvt' / 'made.json', change)
    assert check(tmp_path) == 1
    out = capsys.readouterr().out
    assert 'hvt/made' in out and 'FAILED' in out and word in out
