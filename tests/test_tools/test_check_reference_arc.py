"""`tools/check_reference.py` on ARC and memory tokens: official cases, others, what must fail."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.changed_cases import (
    argument,
    change_description,
    change_number,
    check,
    in_train_mode,
    training,
)
from tests.support.made_arc_cases import write_memory_case, write_swin_case, write_vit_case
from tests.support.paths import REFERENCE
from tests.support.precisions import each_precision, each_precision_option

OTHERS = {
    'ViT': (write_vit_case, {}),
    'ViT, attention alone': (write_vit_case, dict(mode='ARC_att', seed=9)),
    'ViT, train mode': (write_vit_case, dict(run='train', labels=(1, 2, 0, 1))),
    'ViT, no labels': (write_vit_case, dict(labels=None)),
    'deep and narrow ViT': (write_vit_case, dict(depth=7, width=16, heads=4, dims=1)),
    'ViT, one layer': (write_vit_case, dict(depth=1)),
    'wide ViT': (write_vit_case, dict(size=(32, 80), patch=16, dims=40)),
    'ViT, MLP that is no multiple': (write_vit_case, dict(width=56, mlp=61, heads=7)),
    'ViT, dropout, which eval mode ignores': (write_vit_case, dict(dropout=0.1)),
    'Swin': (write_swin_case, {}),
    'Swin, no labels': (write_swin_case, dict(labels=None, seed=3)),
    'Swin, four stages': (
        write_swin_case,
        dict(depths=(1, 2, 3, 1), heads=(1, 2, 2, 4), window=2, size=(64, 64), width=8),
    ),
    'Swin, one stage': (write_swin_case, dict(depths=(3,), heads=(2,), window=2)),
    'wide Swin': (write_swin_case, dict(size=(32, 80), window=2, patch=4)),
    'Swin, window that covers the map': (write_swin_case, dict(window=8, size=(64, 64))),
    'Swin, drop path, which eval mode ignores': (write_swin_case, dict(drop_path=0.1)),
    'prop': (write_memory_case, {}),
    'prop, averaged': (write_memory_case, dict(pool='avg')),
    'prop, no labels': (write_memory_case, dict(labels=None)),
    'prop, frozen class token': (write_memory_case, dict(train_cls_token=False)),
    'prop, one block': (write_memory_case, dict(depth=1)),
    'standard': (write_memory_case, dict(mode='standard', memory=2)),
    'standard, averaged': (write_memory_case, dict(mode='standard', pool='avg')),
    'standard, one block': (write_memory_case, dict(mode='standard', depth=1, mlp_ratio=4.0)),
    'wide image, many tokens': (write_memory_case, dict(size=(32, 80), patch=16, memory=20)),
    'memory tokens in train mode': (write_memory_case, dict(run='train', depth=6, seed=1)),
}


@each_precision_option
def test_the_official_cases_pass(options, capsys):
    assert check(REFERENCE / 'arc', '--system', 'arc', *options) == 0
    out = capsys.readouterr().out
    for case in ('vit_arc_eval', 'vit_arc_att_eval', 'swin_arc_eval'):
        assert f'arc/{case} ' in out
    assert out.endswith('3 passed, 0 failed\n')


@each_precision_option
def test_the_official_cases_of_memory_tokens_pass(options, tmp_path, capsys):
    (tmp_path / 'hma').mkdir()
    for path in (REFERENCE / 'hma').glob('memory_tokens_*'):
        shutil.copy(path, tmp_path / 'hma')
    assert check(tmp_path, *options) == 0
    assert capsys.readouterr().out.endswith('2 passed, 0 failed\n')


@each_precision
@pytest.mark.parametrize('other', OTHERS)
def test_other_sizes_seeds_and_options_pass(tmp_path, other, float64, capsys):
    write, options = OTHERS[other]
    write(tmp_path, **options)
    status = check(tmp_path, *(['--float64'] if float64 else []))
    assert status == 0, capsys.readouterr().out


ARRAYS = {
    write_vit_case: ['layer0', 'encoded', 'logits', 'loss', 'grad_l2', 'grad_sum', 'grad_probe',
                     'grad/transformer.att_down_projection', 'grad/head_mlp.head.bias'],
    write_swin_case: ['stage0', 'stage1', 'logits', 'grad/layers.0.attn_u'],
    write_memory_case: ['block0', 'tokens', 'logits', 'grad/cls_token', 'grad/head.bias'],
}  # fmt: skip


@pytest.mark.parametrize(
    'write, array', [(write, array) for write, arrays in ARRAYS.items() for array in arrays]
)
def test_one_changed_number_fails(tmp_path, write: Callable[..., Path], array, capsys):
    change_number(write(tmp_path), array)
    assert check(tmp_path) == 1
    out = capsys.readouterr().out
    assert 'FAILED' in out and array.split('/')[0] in out


def frozen_adapters(meta: dict) -> None:
    entry = next(e for e in meta['parameters'] if 'att_adapter.adapter_bias' in e[0])
    entry[2] = False
    meta['trainable_parameters'] -= 32


def no_projection(meta: dict) -> None:
    for entry in meta['parameters']:
        entry[0] = entry[0].replace('_down_', '_up_')


@pytest.mark.parametrize(
    'write, change, word',
    [
        (write_vit_case, in_train_mode('all dropout', 0.1), 'dropout'),
        (write_vit_case, argument('tuning mode', 'ARC_mlp'), 'ARC_mlp'),
        (write_vit_case, argument('number of wings', 2), 'number of wings'),
        (write_vit_case, frozen_adapters, 'att_adapter.adapter_bias'),
        (write_vit_case, no_projection, 'no shared projection'),
        (write_swin_case, training, 'dropout'),
        (write_swin_case, argument('window', 2), 'relative_position_bias_table'),
        (write_memory_case, argument('global_pool', 'max'), 'global_pool'),
        (write_memory_case, argument('number of wings', 2), 'number of wings'),
    ],
)
def test_a_changed_description_fails(tmp_path, write, change, word, capsys):
    change_description(write(tmp_path), change)
    assert check(tmp_path) == 1
    out = capsys.readouterr().out
    assert 'FAILED' in out and word in out
