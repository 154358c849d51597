"""The Swin of detectors: equal to mmdetection's, to the usual one where windows fit, and described."""

import functools

import pytest
import torch
from torch.nn import functional as F

from hstpeft.errors import UserError
from hstpeft.models import SwinTrunk
from hstpeft.models.trunks.front_tokens import attend_with_front
from hstpeft.models.trunks.swin_block import attend_in_padded_map
from tests.support.families import FROZEN, build_trunk, shake, tuned
from tests.support.models import draw, images

VPT = dict(type='hstpeft.VPTTuner', num_tokens=2)
# Grids of 24, 12, 6 and 3 cells for images of 48 pixels: windows of 3 cover the last one, in a block
# that shifts and one that does not.
OPTIONS, WINDOW = dict(img_size=48, depths=(1, 2, 2, 2), window_size=3), 3


@functools.cache
def weights():
    net = build_trunk('swin', arch_options=OPTIONS).net
    return draw({name: value.shape for name, value in net.state_dict().items()})


def backbones(tuner, **options):
    """Return the usual backbone and that of detectors, of the same weights."""
    trunks = [
        dict(arch_options=OPTIONS, weights=weights(), detection_style=style)
        for style in (False, True)
    ]
    return [shake(tuned('swin', tuner, trunk=trunk, **options)) for trunk in trunks]


@pytest.mark.slow
@pytest.mark.parametrize('grid', [(5, 7), (6, 3), (3, 3), (2, 1), (6, 9)])
def test_a_block_attends_as_one_of_mmdetection(grid):
    swin = pytest.importorskip('mmdet.models.backbones.swin')
    trunk = backbones(FROZEN)[1].double().trunk
    for index in (5, 6):  # the second of them shifts
        block = trunk.block(index)
        shift = block.shift_size[0]
        assert shift == index - 5
        theirs = swin.ShiftWindowMSA(block.dim, block.attn.num_heads, WINDOW, shift)
        theirs = theirs.double().eval()
        theirs.w_msa.load_state_dict(block.attn.state_dict(), strict=False)
        normed = torch.randn(2, *grid, block.dim, dtype=torch.float64)
        expected = theirs(normed.flatten(1, 2), grid).unflatten(1, grid)
        torch.testing.assert_close(
            attend_in_padded_map(block, normed), expected, rtol=0, atol=1e-12
        )


@pytest.mark.parametrize('grid', [(4, 7), (2, 1)])
def test_windows_beside_front_tokens_pad_before_they_shift_too(grid):
    block = backbones(VPT)[1].trunk.block(6)
    assert any(block.shift_size)
    normed = torch.randn(2, *grid, block.dim)
    expected = attend_in_padded_map(block, normed).flatten(1, 2)
    got, other = (
        attend_with_front(block, normed.flatten(1, 2), grid, 0, pad_first=first)
        for first in (True, False)
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert (other - expected).abs().max() > 1e-3


def test_prompts_do_not_change_where_a_map_is_padded():
    image = images(2, 3, 80, 64)  # a grid of 10 x 8 in stage 2, whose second block shifts
    usual, other = (
        backbone(image)[0] for backbone in backbones(VPT, out_type='featmap', out_indices=(2,))
    )
    assert (usual - other).abs().max() > 1e-3


def test_the_two_styles_agree_until_a_window_does_not_fit():
    usual, other = (
        backbone(images(2, 3, 48, 48))
        for backbone in backbones(VPT, out_type='featmap', out_indices=(0, 1, 2, 3))
    )
    for ours, theirs in zip(usual[:3], other[:3], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert (usual[3] - other[3]).abs().max() > 1e-3


def test_images_are_padded_to_whole_patches_only():
    backbone = backbones(VPT, out_type='featmap', out_indices=range(4))[1]
    image, read = images(1, 3, 23, 42), []
    backbone.trunk.net.patch_embed.register_forward_hook(lambda m, args, out: read.append(out))
    maps = backbone(image)
    assert read[0].shape[1:3] == (12, 21)
    assert [tuple(x.shape[-2:]) for x in maps] == [(12, 21), (6, 11), (3, 6), (2, 3)]
    for x, padded in zip(maps, backbone(F.pad(image, (0, 0, 0, 1))), strict=True):
        assert x.equal(padded)


def test_the_style_is_part_of_the_function_and_the_usual_one_leaves_identities_alone():
    usual, other = backbones(VPT)
    with pytest.raises(UserError, match='VPTTuner with windows as in detectors'):
        usual.load_state_dict(other.state_dict())
    described = usual.trunk.description()
    assert not described['detection_style'] and other.trunk.description()['detection_style']
    assert SwinTrunk.capabilities == other.trunk.capabilities


def test_a_design_whose_windows_stand_over_the_edge_is_one_of_detectors():
    options = dict(embed_dim=8, depths=(1, 1), num_heads=(1, 1), window_size=3, img_size=16)
    with pytest.raises(UserError, match='windows of 3 x 3 do not divide'):
        SwinTrunk('swin_tiny_patch4_window7_224', options)
    trunk = SwinTrunk('swin_tiny_patch4_window7_224', options, detection_style=True)
    assert [trunk.block(index).window_size for index in (0, 1)] == [(3, 3), (3, 3)]
