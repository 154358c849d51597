"""The hash of contents: the same after saving and loading, another one for any other value."""

import io
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from hstpeft.delta.digest import digest, seal, unseal
from hstpeft.errors import UserError

CONTENT = {
    'bfloat16': torch.randn(3, 4).bfloat16(),
    'scalar': torch.tensor(3),
    'empty': torch.zeros(0, 3),
    'strided': torch.randn(4, 6).t()[1:],
    'complex': torch.randn(2, dtype=torch.complex64).conj(),
    'parameter': nn.Parameter(torch.ones(2)),
    'array': np.arange(6.0).reshape(2, 3),
    'number': np.float64(0.1),
    'history': HistoryBuffer([1.0, 2.0], [1, 1]),
    'plain': [1, 2.5, None, True, 'text', b'bytes', (1j, float('nan'))],
    'state': nn.BatchNorm1d(2).state_dict(),
}


def test_it_is_the_same_before_saving_and_after_loading():
    buffer = io.BytesIO()
    torch.save(CONTENT, buffer)
    buffer.seek(0)
    assert digest(torch.load(buffer, weights_only=False)) == digest(CONTENT)


def test_order_counts_in_lists_and_not_in_dicts():
    assert digest({'a': 1, 'b': 2}) == digest(OrderedDict(b=2, a=1))
    assert digest([1, 2]) != digest([2, 1])


@pytest.mark.parametrize(
    ('one', 'other'),
    [
        (torch.zeros(4), torch.zeros(2, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        (torch.zeros(1), -torch.zeros(1)),
        ([torch.ones(2)], [torch.ones(2), torch.ones(2)]),
        ({torch.float32: 1}, {torch.float32: 2}),
        (np.zeros(2), np.zeros(2, np.float32)),
        (np.float64(1), 1.0),
        (1, True),
        (1, 1.0),
        (1, '1'),
        (['ab', 'c'], ['a', 'bc']),
        ([[1], 2], [[1, 2]]),
        ({'a': None}, {}),
        (HistoryBuffer([1.0], [1]), HistoryBuffer([1.0], [2])),
        ({1, 2}, {1, 3}),
    ],
)
def test_another_value_has_another_hash(one, other):
    assert digest(one) == digest(one) != digest(other) == digest(other)


def test_a_seal_is_taken_off_if_nothing_changed_and_refused_if_something_did():
    content = {'a': torch.ones(2)}
    seal(content)
    seal(content)  # anew, not over the old one
    changed = {**content, 'a': torch.zeros(2)}
    unseal(content, 'file')
    assert content.keys() == {'a'}
    with pytest.raises(UserError, match='file is damaged'):
        unseal(changed, 'file')
