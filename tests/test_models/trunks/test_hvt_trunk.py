"""The HVT trunk: published sizes and costs, initialisation, tuners on it, refusals."""

import json
import math

import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hstpeft.delta.merge import merge
from hstpeft.errors import UserError
from hstpeft.models.trunks import HVTTrunk
from hstpeft.models.trunks.hvt import HVT_SIZES
from tests.support.models import (
    FROZEN,
    HVT,
    backbone_config,
    build,
    changed,
    hvt_config,
    images,
    snapshot,
)
from tests.support.paths import REFERENCE

PUBLISHED = json.loads((REFERENCE / 'full_size_counts.json').read_text())['hvt']
PUBLISHED.pop('notes')
FULL = dict(type='hstpeft.FullTuner')
ARC = dict(type='hstpeft.ARCTuner', adapter_dims=6)


def refusal(*args, **kwargs) -> str:
    with pytest.raises(UserError) as error:
        HVTTrunk(*args, **kwargs)
    message = str(error.value)
    assert '\n' not in message
    return message


@pytest.fixture(scope='module', params=PUBLISHED)
def published(request) -> tuple[dict, nn.Module]:
    """A published model with 1000 classes, without memory."""
    with torch.device('meta'):
        backbone = backbone_config(dict(type='hstpeft.HVTTrunk', arch=request.param), FULL)
        width = HVT_SIZES[request.param].embed_dim
        head = dict(type='LinearClsHead', num_classes=1000, in_channels=width)
        model = MODELS.build(dict(type='ImageClassifier', backbone=backbone, head=head))
    return PUBLISHED[request.param], model.eval()


def test_every_published_model_is_there():
    assert PUBLISHED.keys() == HVT_SIZES.keys()


def test_published_parameters(published):
    expected, model = published
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == expected['trainable']
    assert round(trainable / 1e6, 2) == expected['readme_params_millions']
    assert model.backbone.trunk.block(0).attn.num_heads == expected['heads']


def test_published_multiply_adds(published):
    """Every convolution and matrix product, attention included."""
    expected, model = published
    with torch.device('meta'), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 224, 224), mode='tensor')
    assert counter.get_total_flops() == 2 * expected['macs_matmul_and_conv']


def test_published_sequence_lengths(published):
    expected, model = published
    trunk, lengths = model.backbone.trunk, []
    for follower in [*(block.norm1 for block in trunk.vit.blocks[1:]), trunk.vit.norm]:
        follower.register_forward_hook(lambda m, args, out: lengths.append(args[0].shape[1]))
    with torch.device('meta'):
        model(torch.empty(1, 3, 224, 224), mode='tensor')
    assert lengths == expected['sequence_lengths'] == list(trunk.sequence_lengths)


@pytest.mark.parametrize(
    'options, pooling',
    [
        (dict(pool_width=0), ()),
        (dict(pool_width=3), (0, 3)),
        (dict(arch='hvt_s_0', pool_width=2), (0, 2)),
        (dict(arch='hvt_s_0'), ()),
        (dict(arch='hvt_s_4'), (0, 3)),
    ],
)
def test_any_arch_takes_any_pool_width(options, pooling):
    trunk = HVTTrunk(**{'arch': 'hvt_s_1', 'arch_options': HVT, **options})
    found = [i for i, block in enumerate(trunk.vit.blocks) if hasattr(block, 'pos_embed')]
    assert tuple(found) == trunk.pool_indices == pooling


def test_initialisation():
    """Linears and positions: normal 0.02, cut off. Patch convolution: what PyTorch does."""
    trunk = HVTTrunk('hvt_s_1', dict(embed_dim=192, depth=2, num_heads=3), pool_width=1)
    vit = trunk.vit.requires_grad_(False)
    for position in (vit.pos_embed, vit.blocks[0].pos_embed, vit.blocks[1].pos_embed):
        assert_normal(position)
    for linear in (module for module in vit.blocks.modules() if isinstance(module, nn.Linear)):
        assert_normal(linear.weight)
        assert not linear.bias.any()
    bound = 1 / math.sqrt(3 * 16 * 16)
    for value in (vit.patch_embed.proj.weight, vit.patch_embed.proj.bias):
        assert 0.95 * bound < value.abs().max() <= bound
        assert float(value.std()) == pytest.approx(bound / math.sqrt(3), rel=0.15)
    for norm in (module for module in vit.modules() if isinstance(module, nn.LayerNorm)):
        assert norm.eps == 1e-6
        assert norm.weight.eq(1).all() and not norm.bias.any()


def assert_normal(value: torch.Tensor) -> None:
    assert float(value.std()) == pytest.approx(0.02, rel=0.05)
    assert abs(value.mean()) < 2e-3
    assert 0.06 < value.abs().max() < 0.12


def test_outputs():
    image = images(2, 3, 32, 32)
    (pooled,) = build(backbone_config(hvt_config(), FULL), seed=None).eval()(image)
    assert pooled.shape == (2, 32)
    raw = backbone_config(hvt_config(), FULL, out_type='raw', out_indices=(0, 1, 2, 3))
    outputs = build(raw, seed=None).eval()(image)
    assert [tuple(x.shape) for x in outputs] == [(2, 7, 32), (2, 7, 32), (2, 3, 32), (2, 3, 32)]
    torch.testing.assert_close(outputs[-1].mean(dim=1), pooled)


@pytest.mark.parametrize('out_type', ['featmap', 'cls_token'])
def test_maps_and_class_token_are_refused_with_the_reason(out_type):
    with pytest.raises(UserError, match=f"'{out_type}': an HVT pools its tokens as a 1-D seq"):
        build(backbone_config(hvt_config(), FULL, out_type=out_type))


@pytest.mark.parametrize('size', [(40, 32), (32, 24), (31, 32), (64, 64)])
def test_another_image_size_is_refused(size):
    backbone = build(backbone_config(hvt_config(), FULL), seed=None)
    said = rf'an image of {size[0]} x {size[1]} pixels does not fit.* 32 x 32: resize it in the'
    with pytest.raises(UserError, match=said):
        backbone(images(1, 3, *size))


@pytest.mark.parametrize(
    'tuner', [dict(type='hstpeft.HSTTuner'), dict(type='hstpeft.MemoryTokensTuner')]
)
def test_tuners_that_need_a_plain_vit_are_refused(tuner):
    name = tuner['type'].removeprefix('hstpeft.')
    with pytest.raises(
        UserError,
        match=f'{name} is not defined for a HVTTrunk: .*; use hstpeft.EvaTrunk or hstpeft.ViTTrunk',
    ):
        build(backbone_config(hvt_config(), tuner))


@pytest.mark.parametrize('arch, nearest', [('hvt_s1', 'hvt_s_1'), ('scale_hvt_ti4', 'scale_hvt_')])
def test_an_unknown_arch_names_the_nearest(arch, nearest):
    message = refusal(arch)
    assert f"trunk.arch '{arch}' is no HVT" in message and f"did you mean '{nearest}" in message


@pytest.mark.parametrize(
    'options, said',
    [
        (dict(pool_width=-1), 'pool_width -1 must be at least 0'),
        (dict(pool_kernel_size=0), 'pool_kernel_size 0 must be at least 1'),
        (dict(pool_stride=0), 'pool_stride 0 must be at least 1'),
        (dict(pool_kernel_size=17), 'pool_kernel_size 17 is more than the 16 tokens left at bl'),
        (dict(pool_width=1), 'pool_kernel_size 3 is more than the 1 tokens left at block 3'),
        (dict(dtype='float16'), "dtype 'float16' is not supported"),
        (dict(arch_options=dict(num_heads=5)), "arch_options {'num_heads': 5} do not suit"),
        (dict(arch_options=dict(wings=2)), 'wings'),
        (dict(arch_options=dict(class_token=True)), "['class_token'] cannot be set for an HVT"),
        (dict(arch_options=dict(reg_tokens=1)), "['reg_tokens'] cannot be set for an HVT"),
        (
            dict(arch_options=dict(embed_dims=32)),
            "'embed_dims' cannot be set here: did you mean 'embed_dim",
        ),
    ],
)
def test_wrong_options_are_refused(options, said):
    assert said in refusal('hvt_s_1', **{'arch_options': HVT, **options})


def test_weights_of_another_pooling_are_refused():
    weights = hvt_config()['weights']
    message = refusal('hvt_s_1', HVT, 4, weights=weights)
    assert 'unexpected: blocks.2.pos_embed' in message
    message = refusal('hvt_s_1', HVT, 2, pool_stride=1, weights=weights)
    assert 'blocks.0.pos_embed (1, 7, 32) instead of (1, 14, 32)' in message


def test_arc_trains_its_own_parameters_alone_and_merges():
    config = dict(
        type='ImageClassifier',
        backbone=backbone_config(hvt_config(), ARC),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=32),
    )
    model, image = build(config), images(2, 3, 32, 32)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split('.')[1] for name in names} == {'tuner', 'fc'}
    before = snapshot(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model(image, mode='tensor').square().sum().backward()
    optimizer.step()
    assert changed(model, before) == names
    trunk, merged = merge(model.eval())
    with torch.no_grad():
        expected = model(image, mode='tensor')
        torch.testing.assert_close(merged(image, mode='tensor'), expected, rtol=0, atol=2e-5)
        # What merge writes is an HVT's weight file.
        plain = build(backbone_config(hvt_config(weights=trunk), FROZEN))
        torch.testing.assert_close(plain(image)[0], merged.backbone(image)[0], rtol=0, atol=0)
        untuned = build(backbone_config(hvt_config(), FROZEN))
        assert (untuned(image)[0] - plain(image)[0]).abs().max() > 1e-2


def test_arc_on_a_bfloat16_trunk_stays_near_the_float32_one():
    image, features = images(2, 3, 32, 32), {}
    for dtype in ('float32', 'bfloat16'):
        backbone = build(backbone_config(hvt_config(dtype=dtype), ARC)).eval()
        assert {p.dtype for p in backbone.tuner.parameters()} == {torch.float32}
        assert {p.dtype for p in backbone.trunk.parameters()} == {getattr(torch, dtype)}
        (features[dtype],) = backbone(image)
    difference = (features['float32'] - features['bfloat16']).abs().max()
    assert features['bfloat16'].dtype == torch.float32
    assert 0 < difference < 0.1
