"""Mona: initial values, its equations on a sequence with a class token, and where it acts."""

import pytest
import torch
from torch.nn import functional as F

from hstpeft.errors import UserError
from hstpeft.models import MonaTuner
from hstpeft.models.trunks.layout import Layout
from hstpeft.models.tuners.mona import Mona
from tests.support.families import shake, tuned
from tests.support.models import images

MONA = dict(type='hstpeft.MonaTuner', adapter_dims=6)


def test_new_parameters_start_as_officially():
    torch.manual_seed(0)
    mona = Mona(200, 64, 0.1)
    assert mona.gamma.eq(1e-6).all() and mona.gammax.eq(1).all()
    assert mona.norm.eps == 1e-5 and mona.norm.weight.eq(1).all() and not mona.norm.bias.any()
    for linear in (mona.down, mona.up):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not linear.bias.any()
    for conv, size in zip((*mona.convs, mona.projector), (3, 5, 7, 1), strict=True):
        assert conv.kernel_size == (size, size)
        bound = (conv.weight.shape[1] * size**2) ** -0.5  # PyTorch's: 1 / sqrt(fan in)
        assert 0.9 * bound < conv.weight.abs().max() <= bound
        assert 0.8 * bound < conv.bias.abs().max() <= bound


def literal(mona, x):
    """Compute M of one map (B, h, w, C) by its equations, convolution by convolution."""
    z = mona.down(mona.gamma * mona.norm(x) + mona.gammax * x).permute(0, 3, 1, 2)
    z = z + sum(conv(z) for conv in mona.convs) / 3
    z = z + mona.projector(z)
    return x + mona.up(F.gelu(z.permute(0, 2, 3, 1)))


def test_patches_are_one_map_and_every_other_token_is_its_own():
    mona = shake(Mona(8, 6, 0.0)).double()
    tokens, grid = torch.randn(2, 1 + 12 + 2, 8, dtype=torch.float64), (3, 4)
    got = mona(0, tokens, Layout((grid,), 1))
    expected = literal(mona, tokens[:, 1:13].unflatten(1, grid)).flatten(1, 2)
    torch.testing.assert_close(got[:, 1:13], expected, rtol=0, atol=1e-12)
    for place in (0, -2, -1):
        alone = literal(mona, tokens[:, place, None, None])[:, 0, 0]
        torch.testing.assert_close(got[:, place], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize('family', ['vit', 'swin'])
def test_it_acts_on_the_stream_behind_attention_and_behind_the_mlp(family):
    where = dict(trunk=dict(arch_options=dict(depths=(1, 1, 1, 1)))) if family == 'swin' else {}
    backbone = shake(tuned(family, MONA, out_type='raw', out_indices=(0,), **where))
    block, kept = backbone.trunk.block(0), {}
    block.norm1.register_forward_hook(lambda m, args, out: kept.update(entry=args[0]))
    block.attn.proj.register_forward_hook(lambda m, args, out: kept.update(attention=out))
    block.norm2.register_forward_hook(lambda m, args, out: kept.update(middle=args[0]))
    block.mlp.register_forward_hook(lambda m, args, out: kept.update(mlp=out))
    image = images(2, 3, 32, 32)
    after = backbone(image)[0]
    front, grid = (1, (4, 4)) if family == 'vit' else (0, (16, 16))
    layout = Layout((grid,), front)
    first, second = backbone.tuner.attention[0], backbone.tuner.mlp[0]
    torch.testing.assert_close(after, second(0, kept['middle'] + kept['mlp'], layout))
    if family == 'vit':
        torch.testing.assert_close(
            kept['middle'], first(0, kept['entry'] + kept['attention'], layout)
        )


def test_dropout_acts_behind_the_gelu_in_training_only():
    mona, layout = shake(Mona(8, 6, 0.5)), Layout(((2, 2),), 0)
    x = torch.randn(2, 4, 8)
    still = Mona(8, 6, 0.0)
    still.load_state_dict(mona.state_dict())
    assert mona.eval()(0, x, layout).equal(still.train()(0, x, layout))
    with torch.no_grad():
        mona.up.weight.copy_(torch.ones(8, 6))
    seen = (mona.train()(0, x, layout) - x - mona.up.bias)[..., 0]
    assert not seen.equal((mona(0, x, layout) - x - mona.up.bias)[..., 0])


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(adapter_dims=0), 'tuner.adapter_dims 0 must be at least 1'),
        (dict(drop_rate=-0.1), 'tuner.drop_rate -0.1 must be from 0 to below 1'),
    ],
)
def test_a_wrong_option_is_refused_by_name_and_value(options, words):
    with pytest.raises(UserError) as info:
        MonaTuner(**options)
    assert words in str(info.value)
