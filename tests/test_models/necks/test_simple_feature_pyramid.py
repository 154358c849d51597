"""The neck that makes a pyramid of a plain vision transformer's maps."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from hstpeft.errors import UserError
from hstpeft.models.necks import SimpleFeaturePyramid
from hstpeft.models.necks.simple_feature_pyramid import ChannelNorm


@pytest.mark.parametrize(('height', 'width'), [(4, 6), (5, 3), (1, 1)])
def test_sides_follow_the_scales_and_odd_ones_are_rounded_up(height, width):
    neck = SimpleFeaturePyramid(8, 12, num_outs=5)
    maps = neck((torch.randn(1, 8, height, width),))
    sides = [tuple(x.shape[2:]) for x in maps]
    halved = (-(-height // 2), -(-width // 2))
    pooled = (-(-halved[0] // 2), -(-halved[1] // 2))
    assert sides == [
        (4 * height, 4 * width),
        (2 * height, 2 * width),
        (height, width),
        halved,
        pooled,
    ]
    assert {x.shape[1] for x in maps} == {12}


def test_a_map_a_level_feeds_that_level_alone():
    neck = SimpleFeaturePyramid(8, 4)
    feats = [torch.randn(2, 8, 4, 4, requires_grad=True) for _ in range(4)]
    maps = neck(feats)
    for level, x in enumerate(maps):
        grads = torch.autograd.grad(x.square().sum(), feats, retain_graph=True, allow_unused=True)
        assert [i for i, grad in enumerate(grads) if grad is not None] == [level]


def test_one_map_feeds_every_level():
    neck = SimpleFeaturePyramid(8, 4, scales=(2, 1, 0.5), num_outs=5)
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    maps = neck((x,))
    assert len(maps) == 5
    for y in maps:
        assert torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0].abs().sum() > 0


def test_maps_are_contiguous_for_the_sake_of_roi_align():
    feats = [torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)]
    assert all(x.is_contiguous() for x in SimpleFeaturePyramid(8, 4, num_outs=5)(feats))


def test_every_parameter_gets_a_gradient():
    neck = SimpleFeaturePyramid(8, 4, num_outs=5)
    sum(y.square().sum() for y in neck((torch.randn(2, 8, 4, 4),))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in neck.parameters())


def test_channel_norm_is_layer_norm_of_each_cell():
    norm = ChannelNorm(6).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    expected = x - x.mean(dim=1, keepdim=True)
    expected = expected / (x.var(dim=1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    expected = expected * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected, atol=1e-10, rtol=0)


def test_halving_keeps_the_largest_value_of_an_odd_border():
    neck = SimpleFeaturePyramid(2, 2, scales=(0.5,))
    x = torch.zeros(1, 2, 3, 3)
    x[..., 2, 2] = 7.0
    assert neck.levels[0][0](x)[0, 0].tolist() == [[0.0, 0.0], [0.0, 7.0]]


def test_it_is_found_by_its_name():
    assert MODELS.get('hstpeft.SimpleFeaturePyramid') is SimpleFeaturePyramid


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(scales=(3,)), 'powers of 2'),
        (dict(scales=(8, 1)), 'none above 4'),
        (dict(scales=(-1,)), 'powers of 2'),
        (dict(scales=(1, 2)), 'must fall from level to level'),
        (dict(scales=(1, 1)), 'must fall from level to level'),
        (dict(num_outs=3), 'num_outs 3 is below the 4 levels'),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        SimpleFeaturePyramid(8, 4, **options)


def test_maps_that_do_not_fit_are_refused():
    neck = SimpleFeaturePyramid(8, 4)
    with pytest.raises(UserError, match='2 maps for 4 scales'):
        neck([torch.randn(1, 8, 4, 4)] * 2)
    with pytest.raises(
        UserError, match=r'in_channels 8 does not match a map of shape \(1, 6, 4, 4\)'
    ):
        neck([torch.randn(1, 6, 4, 4)])
    with pytest.raises(UserError, match="out_type='featmap'"):
        neck([torch.randn(1, 8)])
