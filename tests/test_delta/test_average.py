"""The weighted average of deltas."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hstpeft.compat import EXTRA_STATE
from hstpeft.delta import load_checkpoint, save_delta
from hstpeft.delta.average import average_deltas
from hstpeft.delta.identity import decode_identity, encode_identity
from hstpeft.errors import UserError
from tests.support import tiny
from tests.support.deltas import SUFFIXES, assert_same, delta
from tests.support.models import build, classifier_config

IDENTITY = f'backbone.{EXTRA_STATE}'
COUNTER = 'neck.norm.num_batches_tracked'
BIAS = 'head.fc.bias'


def pair() -> list[dict[str, Any]]:
    """Two deltas whose BatchNorm has seen 3 and 7 batches."""
    deltas = [delta(seed=0), delta(seed=1)]
    for one, count in zip(deltas, (3, 7), strict=True):
        one['state_dict'][COUNTER] = torch.tensor(count)
    return deltas


def test_all_weight_on_one_gives_that_one_bit_by_bit():
    first, second = pair()
    first['state_dict'][BIAS][0] = -0.0
    second['state_dict'][BIAS][1] = torch.inf
    average = average_deltas([first, second], 'ab', [2, 0])
    assert tiny.same(average['state_dict'], first['state_dict'])
    assert average['state_dict'][BIAS][0].signbit()


def test_an_average_is_that_of_the_values_and_a_model_takes_it():
    first, second = pair()
    average = average_deltas([first, second], ['a.pth', 'b.pth'])['state_dict']
    assert average.keys() == first['state_dict'].keys()
    assert average[COUNTER] == 7
    for key, value in average.items():
        one, other = (d['state_dict'][key] for d in (first, second))
        if value.is_floating_point():
            assert value.equal(((one.double() + other.double()) / 2).float()), key
            assert not value.equal(one), key
        elif key != COUNTER:
            assert value.equal(one), key
    build(classifier_config(), seed=None).load_state_dict(average)


def test_only_the_proportions_of_the_weights_count():
    state = average_deltas(pair(), 'ab', [3, 1])['state_dict'][BIAS]
    one, other = (d['state_dict'][BIAS].double() for d in pair())
    assert state.equal((0.75 * one + 0.25 * other).float())


def test_values_of_half_precision_are_added_in_double():
    deltas = [delta() for _ in range(3)]
    for one, value in zip(deltas, (256, 1, 1), strict=True):
        one['state_dict'][BIAS] = torch.full((5,), value, dtype=torch.bfloat16)
    state = average_deltas(deltas, 'abc', [1, 1, 1])['state_dict'][BIAS]
    assert state.equal(torch.full((5,), 86, dtype=torch.bfloat16))


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_it_says_of_what_it_was_made_in_both_formats(tmp_path, suffix):
    names = []
    for index, one in enumerate(pair()):
        names.append(str(tmp_path / f'{index}{suffix}'))
        save_delta(one, names[-1])
    average = average_deltas([load_checkpoint(name) for name in names], names, [0.7, 0.3])
    first = average['meta']['averaged'][0]
    sealed = (
        torch.load(names[0], weights_only=True)['sha256'] if suffix == '.pth' else first['sha256']
    )
    assert first == {'file': names[0], 'sha256': sealed, 'weight': 0.7}
    assert average['meta']['dataset_meta'] == {'classes': ['cat', 'dog']}
    assert 'epoch' not in average['meta'] and average['meta']['tuner'] == 'HSTTuner'
    save_delta(average, tmp_path / f'average{suffix}')
    assert_same(load_checkpoint(tmp_path / f'average{suffix}'), average)


def of(**parts: str) -> Callable[[dict], None]:
    """Change parts of the identity."""

    def change(one: dict) -> None:
        identity = decode_identity(one['state_dict'][IDENTITY])
        one['state_dict'][IDENTITY] = encode_identity(identity._replace(**parts))

    return change


REFUSALS = {
    'tuner': (
        of(words='LoRATuner'),
        r'b.pth was made with the tuner LoRATuner, a.pth with HSTTuner',
    ),
    'trunk': (of(trunk='f' * 64), 'b.pth was made with the trunk f{12}, a.pth with'),
    'options': (of(function='e' * 64), r'with the options \(hash\) e{12}'),
    'outputs': (of(form='{}'), r'with the outputs \{\}, a.pth with \{"dtype"'),
    'old': (of(form=''), 'with the outputs of an older version'),
    'none': (lambda one: one['state_dict'].pop(IDENTITY), 'b.pth has no trunk identity'),
    'key': (lambda one: one['state_dict'].pop(BIAS), f'b.pth does not fit a.pth: missing: {BIAS}'),
    'shape': (
        lambda one: one['state_dict'].update({BIAS: torch.ones(7)}),
        r'shape: .*\(7,\) instead',
    ),
    'dtype': (
        lambda one: one['state_dict'].update({BIAS: torch.ones(5).double()}),
        f'{BIAS} is torch.float64 in b.pth and torch.float32 in a.pth',
    ),
    'classes': (
        lambda one: one['meta'].update(dataset_meta={'classes': ['cat', 'cow']}),
        'b.pth has the classes cat, cow, a.pth has cat, dog',
    ),
}


@pytest.mark.parametrize('kind', REFUSALS)
def test_deltas_of_two_kinds_have_no_average(kind):
    change, message = REFUSALS[kind]
    first, second = pair()
    change(second)
    with pytest.raises(UserError, match=message):
        average_deltas([first, second], ['a.pth', 'b.pth'])


def test_whole_numbers_must_agree():
    deltas = pair()
    for index, one in enumerate(deltas):
        one['state_dict']['head.pointer'] = torch.tensor([index])
    with pytest.raises(UserError, match=r'head.pointer differs in b and a, and torch.int64 values'):
        average_deltas(deltas, 'ab')


@pytest.mark.parametrize(
    'weights, message',
    [
        ([1], 'must be one for each of the 2 deltas'),
        ([1, -1], 'must be numbers from 0 up'),
        ([0, 0], 'not all 0'),
        ([1, float('nan')], 'must be numbers'),
    ],
)
def test_wrong_weights_are_named(weights, message):
    with pytest.raises(UserError, match=message):
        average_deltas(pair(), 'ab', weights)


def test_one_delta_is_no_average():
    with pytest.raises(UserError, match='two deltas at least, got a'):
        average_deltas(pair()[:1], 'a')
