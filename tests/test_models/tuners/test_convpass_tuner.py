"""Convpass: initial values, what it has, its two ways of dropping, and what is refused."""

import pytest
import torch
from torch.nn import functional as F

from hstpeft.errors import UserError
from hstpeft.models import ConvpassTuner
from hstpeft.models.trunks.layout import Layout
from hstpeft.models.tuners.convpass import Bypass
from tests.support.families import FROZEN, shake, tuned
from tests.support.models import images

CONVPASS = dict(type='hstpeft.ConvpassTuner', adapter_dims=5)


@pytest.mark.parametrize('conv_init', ['identity', 'xavier'])
@pytest.mark.parametrize('family', ['vit', 'swin'])
def test_it_starts_exactly_as_the_bare_trunk_in_training_too(family, conv_init):
    image = images(2, 3, 32, 48)
    bare = tuned(family, FROZEN, out_type='raw')(image)[0]
    backbone = tuned(family, {**CONVPASS, 'conv_init': conv_init}, out_type='raw')
    assert backbone(image)[0].equal(bare)
    assert backbone.train()(image)[0].equal(bare)
    assert not shake(backbone.eval())(image)[0].equal(bare)


def test_new_parameters_start_as_officially():
    for conv_init in ('identity', 'xavier'):
        tuner = tuned('vit', dict(CONVPASS, adapter_dims=12, conv_init=conv_init)).tuner
        for bypass in (*tuner.attention, *tuner.mlp):
            bound = (6 / (32 + 12)) ** 0.5
            assert 0.9 * bound < bypass.down.weight.abs().max() <= bound
            zeros = (bypass.down.bias, bypass.conv.bias, bypass.up.weight, bypass.up.bias)
            assert not any(parameter.any() for parameter in zeros)
            x, bound = torch.randn(1, 12, 4, 3), (6 / (9 * (12 + 12))) ** 0.5
            if conv_init == 'identity':
                assert bypass.conv(x).equal(x)
            else:
                assert 0.9 * bound < bypass.conv.weight.abs().max() <= bound


@pytest.mark.parametrize('position', ['attention', 'mlp'])
def test_one_position_alone(position):
    backbone = shake(tuned('vit', {**CONVPASS, 'positions': [position]}, out_type='raw'))
    assert [name for name, _ in backbone.tuner.named_children()] == [position]
    assert backbone.tuner.at(Layout(((4, 4),), 1)).acting_places == {f'after_{position}'}
    bare = tuned('vit', FROZEN, out_type='raw')(images(2, 3, 32, 32))[0]
    assert not backbone(images(2, 3, 32, 32))[0].equal(bare)


def test_a_bypass_is_dropped_at_the_rate_of_its_block_and_apart_from_the_branch():
    dropping = dict(arch_options=dict(drop_path_rate=0.5))
    tuner = tuned('vit', {**CONVPASS, 'drop_rate': 0.0}, trunk=dropping).tuner
    rates = [bypass.drop_path.drop_prob for bypass in tuner.mlp]
    assert rates == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2])
    layout, bypass = Layout(((2, 2),), 0), shake(tuner).mlp[3]
    normed = torch.randn(64, 4, 32)
    whole, dropped = bypass.eval()(0, normed, layout), bypass.train()(0, normed, layout)
    kept = dropped.flatten(1).any(dim=1)
    assert 0 < kept.sum() < 64
    torch.testing.assert_close(dropped[kept], 2 * whole[kept])


def test_dropout_acts_behind_the_second_quick_gelu(monkeypatch):
    seen = []
    monkeypatch.setattr(F, 'dropout', lambda x, rate, training: seen.append((rate, x)) or x)
    bypass, z = Bypass(8, 3, 'identity', 0.3, 0.0), torch.randn(2, 4, 8)
    bypass(0, z, Layout(((2, 2),), 0))
    ((rate, read),) = seen
    hidden = bypass.down(z)
    for _ in range(2):  # the convolution between is the identity
        hidden = hidden / (1 + torch.exp(-1.702 * hidden))
    assert rate == 0.3
    torch.testing.assert_close(read, hidden)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(positions=['atention']), "tuner.positions 'atention' is unknown: did you mean"),
        (dict(positions=[]), 'tuner.positions () must name at least one'),
        (dict(conv_init='dirac'), "tuner.conv_init 'dirac' is unknown: known: identity, xavier"),
        (dict(adapter_dims=0), 'tuner.adapter_dims 0 must be at least 1'),
        (dict(drop_rate=1.0), 'tuner.drop_rate 1.0 must be from 0 to below 1'),
    ],
)
def test_a_wrong_option_is_refused_by_name_and_value(options, words):
    with pytest.raises(UserError) as info:
        ConvpassTuner(**options)
    assert words in str(info.value)
