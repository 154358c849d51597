"""`tools/check_reference.py` on HMA: the official cases, other options, and what must fail."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.made_hma_cases import write_hma_case
from tests.support.paths import REFERENCE
from tests.support.precisions import each_precision, each_precision_option
from tools import check_reference

MEMORIES = dict(mode='train', steps=3)
OTHERS = {
    'defaults': {},
    'null key': dict(null=True),
    'null key and topk': dict(null=True, topk=3),
    'topk, normalised': dict(topk=3, norm=True, heads=2),
    'topk above the keys of both memories': dict(topk=99, norm=True),
    'temperature': dict(temp=2.5),
    'logits from the feature': dict(part='feature'),
    'logits from the label': dict(part='label_emb', per_class=5),
    'one class': dict(classes=1, labels=(0, 0, 0)),
    'no local memory': dict(local=0),
    'no global memory': dict(per_class=0),
    'local memory alone': dict(batch_attention=False, per_class=0),
    'local memory alone, global ones asked for': dict(batch_attention=False, per_class=3),
    'nothing to read': dict(local=0, batch_attention=False, per_class=0),
    'zero global memories': dict(gaussian=False),
    'dropout names': dict(dropout=0.1),
    'large batch': dict(labels=tuple(i % 4 for i in range(16)), local=16),
    'an encoder': dict(inputs=10),
    'three steps': dict(MEMORIES),
    'three steps, another rate': dict(MEMORIES, rate=0.35),
    'three steps that do not divide the queue': dict(MEMORIES, local=10),
    'three steps around the queue': dict(MEMORIES, local=6, null=True, topk=2),
    'momentum': dict(mode='train', steps=2, inputs=10, momentum=0.7),
    'momentum without an encoder': dict(mode='train', steps=2, momentum=0.7),
    'momentum in eval, no labels passed': dict(inputs=10, momentum=0.7),
    'labels passed in eval': dict(call_with_labels=True),
    'labels passed in eval, momentum': dict(call_with_labels=True, inputs=10, momentum=0.7),
}  # fmt: skip


def check(folder: Path, *options: str) -> int:
    return check_reference.main([str(folder), *options])


@each_precision_option
def test_the_official_cases_pass(options, capsys):
    assert check(REFERENCE / 'hma', '--system', 'hma', *options) == 0
    out = capsys.readouterr().out
    for case in ('local16_global3_train3', 'momentum_train2', 'dropout_names_eval'):
        assert f'hma/{case} ' in out


@each_precision
@pytest.mark.parametrize('other', OTHERS)
def test_other_sizes_seeds_and_options_pass(tmp_path, other, float64, capsys):
    write_hma_case(tmp_path, **OTHERS[other])
    status = check(tmp_path, *(['--float64'] if float64 else []))
    assert status == 0, capsys.readouterr().out


@pytest.fixture(scope='module')
def momentum_case(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('case')
    write_hma_case(folder, **OTHERS['momentum'])
    assert check(folder) == 0
    return folder


@pytest.mark.parametrize(
    'array',
    [
        'logits', 'feature', 'loss', 'logits_step2', 'loss_step2', 'queue_after_step1',
        'queue_after_step2', 'queue_ptr_after_step2', 'momentum_weight_after_step1',
        'momentum_weight_after_step2', 'final/label_embeddings.weight', 'grad_l2', 'grad/fc.weight',
    ],
)  # fmt: skip
def test_one_changed_number_fails(momentum_case, tmp_path, array, capsys):
    shutil.copytree(momentum_case, tmp_path, dirs_exist_ok=True)
    path = tmp_path / 'hma' / 'made.npz'
    with np.load(path) as file:
        arrays = {key: file[key].copy() for key in file}
    values = arrays[array].reshape(-1)
    place = np.abs(values).argmax()
    values[place] = values[place] * 1.01 if 'ptr' not in array else values[place] + 1
    np.savez(path, **arrays)
    assert check(tmp_path) == 1
    assert array.split('/')[0] in capsys.readouterr().out


@pytest.mark.parametrize(
    'key, value, word',
    [
        ('number of wings', 2, 'number of wings'),
        ('logits_resource', 'moon', 'logits_resource'),
        ('hidden dropout', 0.1, 'dropout'),
        ('softmax_temp', 1.1, 'differ'),
        ('norm_after_topk', None, ''),
    ],
)
def test_a_changed_description_fails(momentum_case, tmp_path, key, value, word, capsys):
    shutil.copytree(momentum_case, tmp_path, dirs_exist_ok=True)
    path = tmp_path / 'hma' / 'made.json'
    meta = json.loads(path.read_text())
    meta['arguments'][key] = value
    path.write_text(json.dumps(meta))
    if not word:  # without topk it changes nothing
        assert check(tmp_path) == 0
        return
    assert check(tmp_path) == 1
    assert word in capsys.readouterr().out
