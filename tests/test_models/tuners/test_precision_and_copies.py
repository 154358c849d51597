"""Newer tuners and BitFit: a trunk in half precision, and copies that are independent."""

import copy

import pytest
import torch

from hstpeft.errors import UserError
from tests.support.families import FAMILIES, shake, tuned
from tests.support.models import images

TUNERS = {
    'ssf': dict(type='hstpeft.SSFTuner'),
    'vpt': dict(type='hstpeft.VPTTuner', num_tokens=2),
    'vpt-shallow': dict(type='hstpeft.VPTTuner', num_tokens=2, deep=False),
    'convpass': dict(type='hstpeft.ConvpassTuner'),
    'mona': dict(type='hstpeft.MonaTuner', adapter_dims=6),
    'repadapter': dict(type='hstpeft.RepAdapterTuner'),
    'fact-tt': dict(type='hstpeft.FacTTuner', rank=3),
    'fact-tk': dict(type='hstpeft.FacTTuner', form='tk', rank=3),
    'adaptformer': dict(type='hstpeft.AdaptFormerTuner', scale='learned', adapter_norm='in'),
    'adapter-plus': dict(type='hstpeft.AdapterPlusTuner', adapter_norm='in'),
    'houlsby': dict(type='hstpeft.AdapterPlusTuner', form='houlsby', scale='learned'),
    'adaptformer-sequential': dict(type='hstpeft.AdaptFormerTuner', form='sequential'),
}
SELECTIVE = {
    'bitfit': dict(type='hstpeft.SelectiveTuner'),
    'norms': dict(type='hstpeft.SelectiveTuner', parts=['norms']),
}
ALL = {**TUNERS, **SELECTIVE}


def pairs(tuners):
    """Every tuner on every family that it is defined for."""
    every = [(tuner, family) for tuner in tuners for family in FAMILIES]
    undefined = [('vpt', 'hvt'), ('convpass', 'hvt'), ('mona', 'hvt'), ('fact', 'swin')]
    return [(t, f) for t, f in every if (t.partition('-')[0], f) not in undefined]


@pytest.mark.parametrize(('tuner', 'family'), pairs(TUNERS))
def test_a_trunk_in_bfloat16_keeps_what_is_trained_in_single_precision(tuner, family):
    half, single = (
        shake(tuned(family, TUNERS[tuner], trunk=dict(dtype=dtype)))
        for dtype in ('bfloat16', 'float32')
    )
    dtypes = {(p.requires_grad, p.dtype) for p in half.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
    image = images(2, 3, 32, 32)
    got, expected = half(image)[0], single(image)[0]
    assert got.dtype == torch.float32
    assert (got - expected).norm() < 0.05 * expected.norm()
    got.square().mean().backward()
    for name, parameter in half.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.dtype == torch.float32, name
            assert parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.parametrize(('tuner', 'family'), pairs(SELECTIVE))
def test_what_trains_parts_of_layers_refuses_to_hold_them_in_another_dtype(tuner, family):
    with pytest.raises(UserError, match=r"trunk.dtype 'bfloat16' .*use 'float32'"):
        tuned(family, SELECTIVE[tuner], trunk=dict(dtype='bfloat16'))


@pytest.mark.parametrize(('tuner', 'family'), pairs(ALL))
def test_a_copy_is_independent(tuner, family):
    backbone, image = shake(tuned(family, ALL[tuner])), images(2, 3, 32, 32)
    before, other = backbone(image)[0], copy.deepcopy(backbone)
    assert other(image)[0].equal(before)
    mine = {id(t) for t in [*backbone.parameters(), *backbone.buffers()]}
    assert not mine & {id(t) for t in [*other.parameters(), *other.buffers()]}
    assert other.state_dict().keys() == backbone.state_dict().keys()
    shake(other, seed=8)
    assert not other(image)[0].equal(before)
    assert backbone(image)[0].equal(before)
    other.load_state_dict(backbone.state_dict(), strict=True)
    assert other(image)[0].equal(before)
