"""In a ViT with windows the tokens of a tuner are read by every patch and read everything."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hstpeft.models.trunks import blocks
from tests.support.families import shake, tuned
from tests.support.models import images

TUNERS = {
    'vpt': dict(type='hstpeft.VPTTuner', num_tokens=3),
    'vpt-shallow': dict(type='hstpeft.VPTTuner', num_tokens=3, deep=False),
    'adaptformer': dict(type='hstpeft.AdaptFormerTuner', num_prompt_tokens=3),
}
WINDOW, GRID = 2, (5, 7)


def may_read(first_patch: int) -> Tensor:
    """Who may read whom, (L, L), written down from the definition."""
    cells = [
        (row // WINDOW, column // WINDOW) for row in range(GRID[0]) for column in range(GRID[1])
    ]
    windows = [None] * first_patch + cells
    return torch.tensor([[None in (a, b) or a == b for b in windows] for a in windows])


def masked(attn, q, k, v):
    """Attend densely; the patches are the last tokens."""
    mask = may_read(q.shape[2] - GRID[0] * GRID[1])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=attn.scale)


@pytest.mark.parametrize('tuner', TUNERS)
def test_a_window_reads_its_patches_and_every_token_that_is_none(tuner, monkeypatch):
    image = images(2, 3, GRID[0] * 8, GRID[1] * 8)
    windowed, plain = (
        shake(tuned('vit', TUNERS[tuner], trunk=options, out_type='raw'))
        for options in (dict(window_size=WINDOW), {})
    )
    whole = plain(image)[0]
    monkeypatch.setattr(blocks, 'mix', masked)
    torch.testing.assert_close(windowed(image)[0], plain(image)[0], rtol=0, atol=1e-5)
    assert (windowed(image)[0] - whole).abs().max() > 1e-2
