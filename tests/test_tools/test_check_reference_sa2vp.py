"""`tools/check_reference.py` on SA2VP: the official cases, other options, and what must fail."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.made_sa2vp_cases import write_swin_case, write_vit_case
from tests.support.paths import REFERENCE
from tests.support.precisions import each_precision, each_precision_option
from tests.support.tiers import first_fast
from tools import check_reference

VERSIONS = ['plain', 'accelerated']
OTHERS = {
    'defaults': {},
    'untied': dict(tied=False),
    'untied, wide image': dict(tied=False, grid=(2, 6), seed=5),
    'tall image': dict(grid=(7, 3)),
    'small and large patches': dict(grid=(3, 3), patch=4),
    'the official pattern': dict(depth=12, exchange=(0, 4, 8), deep=(4, 8), width=16, heads=4),
    'one layer': dict(depth=1, exchange=(0,), deep=()),
    'no exchange towards the prompt': dict(exchange=(), deep=()),
    'no deep prompt': dict(deep=(), labels=(2, 2, 1, 0)),
    'deep prompts everywhere': dict(deep=(0, 1, 2), exchange=(1,)),
    'heavy mixing': dict(weight=1.5, inner=16),
    'inner size one': dict(inner=1),
    'one head': dict(heads=1),
    'a width that timm rounds': dict(width=44, mlp=123, heads=4),
    'no labels': dict(labels=None),
    'in training': dict(mode='train'),
}
SWIN_OTHERS = {
    'defaults': {},
    'untied': dict(tied=False),
    'eighteen blocks': dict(depths=(2, 2, 18, 2), heads=(1, 1, 2, 2), seed=9),
    'another window and size': dict(window=4, size=64, patch=4),
    'a large window': dict(window=8, size=64, patch=4, depths=(1, 2, 6, 1)),
    'three stages': dict(depths=(1, 2, 8), heads=(1, 2, 4)),
    'one block in the third stage': dict(depths=(2, 1, 1, 1), weight=1.5, inner=9),
    'no labels': dict(labels=None),
    'drop path, which eval mode ignores': dict(drop_path=0.2),
    'in training': dict(mode='train'),
}


def check(folder: Path, *options: str) -> int:
    return check_reference.main([str(folder), *options])


@each_precision_option
def test_the_official_cases_pass(options, capsys):
    assert check(REFERENCE / 'sa2vp', '--system', 'sa2vp', *options) == 0
    out = capsys.readouterr().out
    for case in ('swin_eval', 'vit_acc_eval', 'vit_plain_eval'):
        assert f'sa2vp/{case} ' in out and f'sa2vp/{case}_tied ' in out
    assert out.endswith('6 passed, 0 failed\n')


@each_precision
@pytest.mark.parametrize('version', VERSIONS)
@pytest.mark.parametrize('other', first_fast(OTHERS))
def test_other_sizes_seeds_and_options_pass_on_a_vit(tmp_path, other, version, float64, capsys):
    write_vit_case(tmp_path, **{'version': version, **OTHERS[other]})
    status = check(tmp_path, *(['--float64'] if float64 else []))
    assert status == 0, capsys.readouterr().out


@each_precision
@pytest.mark.parametrize('other', first_fast(SWIN_OTHERS))
def test_other_sizes_seeds_and_options_pass_on_a_swin(tmp_path, other, float64, capsys):
    write_swin_case(tmp_path, **SWIN_OTHERS[other])
    status = check(tmp_path, *(['--float64'] if float64 else []))
    assert status == 0, capsys.readouterr().out


def change_array(path: Path, name: str) -> None:
    with np.load(path.with_suffix('.npz')) as file:
        arrays = {key: file[key].copy() for key in file}
    values = arrays[name].reshape(-1)
    values[np.abs(values).argmax()] *= 1.1
    np.savez(path.with_suffix('.npz'), **arrays)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp('cases')
    write_vit_case(folder / 'vit')
    write_swin_case(folder / 'swin')
    assert check(folder) == 0
    return folder


SHARED = [
    'logits', 'prompt_logits', 'fusion0', 'fusion1', 'loss', 'grad_l2', 'grad_sum', 'grad_probe',
    'grad/class_head.weight',
]  # fmt: skip
ARRAYS = [
    *(('vit', name) for name in SHARED),
    ('vit', 'base_feature'),
    ('vit', 'prompt_feature'),
    ('vit', 'grad/vit_base.transformer.embeddings.ppt'),
    *(('swin', name) for name in SHARED),
    ('swin', 'stage2_base'),
    ('swin', 'stage2_prompt'),
    ('swin', 'grad/vit_base.patch_embed.deep_ppt'),
]


@pytest.mark.parametrize('kind, array', ARRAYS)
def test_one_changed_number_fails(made, tmp_path, kind, array, capsys):
    shutil.copytree(made / kind, tmp_path, dirs_exist_ok=True)
    change_array(tmp_path / 'sa2vp' / 'made.json', array)
    assert check(tmp_path) == 1
    out = capsys.readouterr().out
    assert 'FAILED' in out and array.split('/')[0] in out and out.endswith('0 passed, 1 failed\n')


def another_version(meta: dict) -> None:
    meta['arguments'] |= {'version': 'accelerated', 'cross-attention heads': 1}


def unknown_version(meta: dict) -> None:
    meta['arguments']['version'] = 'fast'


def another_weight(meta: dict) -> None:
    meta['arguments']['inter_weight'] = 0.2


def another_exchange(meta: dict) -> None:
    meta['arguments']['layers with base-to-prompt adaptation'] = [0, 1]


def another_deep_layer(meta: dict) -> None:
    meta['arguments']['layers with a deep prompt'] = [1]


def exchange_beyond_the_layers(meta: dict) -> None:
    meta['arguments']['layers with base-to-prompt adaptation'] = [0, 3]


def strange_heads(meta: dict) -> None:
    meta['arguments']['cross-attention heads'] = 3


def unknown_argument(meta: dict) -> None:
    meta['arguments']['dropout'] = 0.0


def one_more_trainable(meta: dict) -> None:
    entry = next(e for e in meta['parameters'] if e[0].endswith('cross_attn.0.attention_norm.bias'))
    entry[2] = True
    meta['trainable_parameters'] += entry[1][0]


def other_copies(meta: dict) -> None:
    meta['values_taken_from'] = {}


def a_parameter_that_sa2vp_lacks(meta: dict) -> None:
    meta['parameters'].append(['vit_base.wing.weight', [2, 2], True])
    meta['trainable_parameters'] += 4


def drop_path_in_training(meta: dict) -> None:
    meta['mode'], meta['arguments']['drop path'] = 'train', 0.2


@pytest.mark.parametrize(
    'kind, change, word',
    [
        ('vit', another_version, 'differ'),
        ('vit', unknown_version, "'fast'"),
        ('vit', another_weight, 'differ'),
        ('vit', another_exchange, 'differ'),
        ('vit', another_deep_layer, 'differ'),
        ('vit', exchange_beyond_the_layers, 'out of range'),
        ('vit', strange_heads, '3 cross-attention heads'),
        ('vit', unknown_argument, 'dropout'),
        ('vit', one_more_trainable, 'attention_norm.bias'),
        ('vit', other_copies, 'differ'),
        ('vit', a_parameter_that_sa2vp_lacks, 'wing'),
        ('swin', another_weight, 'differ'),
        ('swin', strange_heads, 'cross-attention heads'),
        ('swin', unknown_argument, 'dropout'),
        ('swin', one_more_trainable, 'attention_norm.bias'),
        ('swin', other_copies, 'differ'),
        ('swin', a_parameter_that_sa2vp_lacks, 'wing'),
        ('swin', drop_path_in_training, 'drop path'),
    ],
)
def test_a_changed_description_fails(made, tmp_path, kind, change, word, capsys):
    shutil.copytree(made / kind, tmp_path, dirs_exist_ok=True)
    path = tmp_path / 'sa2vp' / 'made.json'
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))
    assert check(tmp_path) == 1
    out = capsys.readouterr().out
    assert 'sa2vp/made' in out and 'FAILED' in out and word in out, out
