"""Names of official ARC checkpoints: what a trunk may lack."""

import torch

from hstpeft.official import join_arc, split_arc
from tests.support.arc_pair import SWIN_DEFAULTS, official_weights


def test_a_swin_without_qkv_biases_goes_both_ways():
    weights = official_weights(SWIN_DEFAULTS, seed=3)[0]
    official = {k: v for k, v in weights.items() if not k.endswith('attn.qkv.bias')}
    trunk, delta = split_arc(official)
    assert not any(key.endswith('qkv.bias') for key in {**trunk, **delta})
    back = join_arc(trunk, delta)
    assert all(torch.equal(back[key], value) for key, value in official.items())
    assert len(official) < len(weights)
