"""HST's parts: taps, initial values, counts, the neck, AMP."""

import json
import math

import pytest
import torch
from mmpretrain.registry import MODELS

from hstpeft.errors import UserError
from hstpeft.models import HSTTuner, PooledNorm
from hstpeft.models.tuners.hst import deal_out
from tests.support.models import (
    backbone_config,
    build,
    classifier_config,
    hst_config,
    images,
    trunk_config,
)
from tests.support.paths import REFERENCE


@pytest.mark.parametrize(
    'num_layers, stages',
    [
        (12, (3, 3, 3, 3)),
        (24, (6, 6, 6, 6)),
        (4, (1, 1, 1, 1)),
        (6, (1, 2, 1, 2)),
        (7, (1, 2, 2, 2)),
    ],
)
def test_blocks_are_dealt_out_evenly(num_layers, stages):
    assert deal_out(num_layers, 4) == stages


def test_a_trunk_of_less_blocks_than_stages_is_refused():
    with pytest.raises(UserError, match=r'only 3 of the trunk run: use a deeper trunk'):
        build(backbone_config(trunk_config(depth=3)))


@pytest.mark.parametrize(
    'depth, side_depths, taps',
    [
        (12, None, tuple(range(12))),
        (24, (3, 3, 3, 3), tuple(range(1, 24, 2))),
        (6, (1, 1, 1, 1), (0, 2, 3, 5)),
        (7, None, tuple(range(7))),
    ],
)
def test_default_taps_are_spread_evenly_up_to_the_last_block(depth, side_depths, taps):
    tuner = HSTTuner(side_depths=side_depths)
    tuner.attach(FakeTrunk(depth))
    assert tuner.taps == taps
    assert len(tuner.meta_tokens) == depth


class FakeTrunk:
    embed_dims = 16

    def __init__(self, depth: int) -> None:
        self.num_layers = depth


def test_counts_at_full_size_are_the_official_ones():
    counts = json.loads((REFERENCE / 'full_size_counts.json').read_text())['hst']['vit_b16_224']
    trunk = dict(
        type='hstpeft.ViTTrunk', arch='vit_base_patch16_224', arch_options=dict(weight_init='skip')
    )
    with torch.device('meta'):
        backbone = MODELS.build(
            dict(type='hstpeft.TunedBackbone', trunk=trunk, tuner=dict(type='hstpeft.HSTTuner'))
        )
    trainable = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    assert trainable == counts['trainable_0_classes']
    assert sum(p.numel() for p in backbone.parameters()) == counts['total_0_classes']


def test_new_parameters_start_as_the_paper_says():
    tuner = build(backbone_config(tuner=hst_config(num_meta_tokens=4)), seed=None).tuner
    bound = math.sqrt(6 / (32 * (4 + 1)))
    tokens = torch.cat([t.detach() for t in tuner.meta_tokens])
    assert 0.9 * bound < tokens.abs().max() <= bound
    for name, module in tuner.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert module.weight.abs().max() < 0.1 and module.weight.std() > 0.01, name
        if isinstance(module, torch.nn.Conv2d):
            std = math.sqrt(2 / (math.prod(module.kernel_size) * module.out_channels))
            assert module.weight.std().item() == pytest.approx(std, rel=0.3), name
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and module.bias is not None:
            assert not module.bias.any(), name


def test_token_parameters_are_the_meta_tokens():
    tuner = build(backbone_config()).tuner
    assert {id(p) for p in tuner.token_parameters()} == {id(p) for p in tuner.meta_tokens}


def test_hst_cannot_be_merged_and_says_what_to_do_instead():
    backbone = build(backbone_config())
    with pytest.raises(UserError, match=r'HSTTuner cannot be merged.*export'):
        backbone.tuner.merge(backbone.trunk)


def test_a_training_batch_of_one_image_is_refused_before_it_spoils_the_statistics():
    neck = PooledNorm(16)
    with pytest.raises(UserError, match='drop_last'):
        neck.train()([torch.ones(1, 16, 2, 2)])
    assert neck.norm.num_batches_tracked == 0
    assert neck.eval()([torch.ones(1, 16, 2, 2)])[0].shape == (1, 16)


def test_automatic_mixed_precision_gives_close_maps_and_finite_gradients():
    model = build(classifier_config()).train()
    image = images(4, 3, 32, 32)
    plain = model.backbone(image)
    with torch.autocast('cpu', torch.bfloat16):
        mixed = model.backbone(image)
        model.head(model.neck(mixed)).float().square().mean().backward()
    for a, b in zip(mixed, plain, strict=True):
        assert (a - b).norm() < 0.05 * b.norm()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_the_model_exports_and_runs_under_no_grad_and_inference_mode():
    model = build(classifier_config()).eval()
    image = images(2, 3, 24, 40)
    with torch.inference_mode():
        inferred = model.backbone(image)
    trained = model.train().backbone(image)  # a cache filled in inference mode must not break this
    sum(x.sum() for x in trained).backward()
    assert len(inferred) == len(trained) == 4


def test_the_side_attention_without_biases_builds_and_learns():
    model = build(backbone_config(tuner=hst_config(qkv_bias=False)))
    attention = model.tuner.side.stages[0].blocks[0].attn
    assert attention.q.bias is attention.k.bias is attention.v.bias is None
    sum(x.square().mean() for x in model(images(2, 3, 32, 32))).backward()
    assert all(p.grad is not None for p in model.tuner.side.parameters())
