"""Convolutions over the patches, wherever they stand; other tokens are maps of 1 x 1."""

import pytest
import torch
from torch import nn

from hstpeft.models.trunks.layout import Layout
from hstpeft.models.tuners.spatial import convolve_tokens

GRID, FRONT, BEHIND = (3, 5), 2, 1


@pytest.mark.parametrize('groups', [1, 6], ids=['all channels', 'depthwise'])
@pytest.mark.parametrize('size', [1, 3, 7])
def test_patches_are_a_map_and_every_other_token_is_one_of_its_own(size, groups):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, size, padding=size // 2, groups=groups).double()
    tokens = torch.randn(2, FRONT + 15 + BEHIND, 6, dtype=torch.float64)
    layout = Layout(((9, 9), GRID), FRONT)
    got = convolve_tokens(layout, 1, tokens, conv.weight, conv.bias)
    patches = tokens[:, FRONT : FRONT + 15].transpose(1, 2).unflatten(2, GRID)
    expected = conv(patches).flatten(2).transpose(1, 2)
    torch.testing.assert_close(got[:, FRONT : FRONT + 15], expected, rtol=0, atol=1e-12)
    for place in (0, 1, -1):
        alone = conv(tokens[:, place, :, None, None])[..., 0, 0]
        torch.testing.assert_close(got[:, place], alone, rtol=0, atol=1e-12)


def test_a_map_stays_one():
    conv = nn.Conv2d(6, 6, 3, padding=1).double()
    maps = torch.randn(2, *GRID, 6, dtype=torch.float64)
    got = convolve_tokens(Layout((GRID,), 0), 0, maps, conv.weight, conv.bias)
    expected = conv(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
