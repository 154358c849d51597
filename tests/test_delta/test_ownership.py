"""Ownership by tensor, counts by owner, and the identity of a trunk."""

import pytest
import torch
from torch import nn

from hstpeft.delta import fingerprint, freeze_all_but, owner_table
from tests.support.models import backbone_config, build, classifier_config


def test_freezing_goes_by_tensor_not_by_name():
    module = nn.ModuleDict({'m_block': nn.Linear(2, 3), 'norm': nn.LayerNorm(3)})
    freeze_all_but(module, [module['m_block'].bias])
    assert [n for n, p in module.named_parameters() if p.requires_grad] == ['m_block.bias']
    freeze_all_but(module, module['norm'].parameters())
    trained = {n for n, p in module.named_parameters() if p.requires_grad}
    assert trained == {'norm.weight', 'norm.bias'}


def test_a_claim_on_a_foreign_parameter_is_our_own_bug():
    with pytest.raises(AssertionError, match='claimed'):
        freeze_all_but(nn.Linear(2, 2), [nn.Parameter(torch.ones(1))])


def test_hst_trains_its_own_parameters_and_the_norms_of_the_blocks():
    backbone = build(backbone_config())
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    norms = {
        f'trunk.vit.blocks.{i}.norm{n}.{leaf}'
        for i in range(4) for n in (1, 2) for leaf in ('weight', 'bias')
    }  # fmt: skip
    assert trained == norms | {f'tuner.{name}' for name, _ in backbone.tuner.named_parameters()}


def test_the_owner_table_counts_each_parameter_once():
    model = build(classifier_config())
    rows = owner_table(model)
    assert [owner for owner, _, _ in rows] == ['backbone.trunk', 'backbone.tuner', 'head']
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    assert sum(free for _, free, _ in rows) == sum(n for n, trained in sizes if trained)
    assert sum(every for _, _, every in rows) == sum(n for n, _ in sizes)
    assert rows[0][1] == 4 * 4 * 32  # norms of four blocks


def test_the_owner_table_counts_what_two_owners_share_once():
    model = nn.ModuleDict({'first': nn.Linear(4, 3), 'second': nn.Linear(4, 3)})
    model['second'].weight = model['first'].weight
    assert owner_table(model) == [('first', 15, 15), ('second', 3, 3)]


def tensors() -> dict:
    return {'a': torch.arange(6.0).view(2, 3), 'b': torch.ones(2)}


def test_a_fingerprint_ignores_order_layout_and_precision_of_the_same_numbers():
    own = fingerprint(tensors())
    assert len(own) == 64 and int(own, 16) >= 0
    assert fingerprint(dict(reversed(tensors().items()))) == own
    assert fingerprint({k: v.double() for k, v in tensors().items()}) == own
    strided = {**tensors(), 'a': tensors()['a'].t().contiguous().t()}
    assert fingerprint(strided) == own
    assert fingerprint({k: nn.Parameter(v) for k, v in tensors().items()}) == own


@pytest.mark.parametrize(
    'change',
    [
        {'a': torch.arange(6.0).view(3, 2)},
        {'a': torch.arange(6.0).view(2, 3) + 1e-6},
        {'c': torch.ones(2)},
    ],
    ids=['shape', 'value', 'name'],
)
def test_a_fingerprint_sees_names_shapes_and_values(change):
    assert fingerprint({**tensors(), **change}) != fingerprint(tensors())
