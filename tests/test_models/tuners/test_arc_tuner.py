"""ARC's parts: initial values, training, counts, merging, wrong options."""

import json

import pytest
import timm
import torch
from mmpretrain.registry import MODELS
from torch import nn

from hstpeft.delta.merge import merge
from hstpeft.errors import UserError
from hstpeft.models import ARCTuner
from hstpeft.models.trunks.hvt import HVTTrunk
from hstpeft.models.tuners import FrozenTuner
from tests.support.arc_pair import (
    CLASSES,
    SWIN_ARCH,
    case_images,
    case_of,
    classifier,
    make_pair,
    official_weights,
)
from tests.support.models import build, draw, images
from tests.support.paths import REFERENCE

VIT = dict(depth=3)
SWIN = dict(depths=(2, 2))
BOTH, ATTENTION = ('attention', 'mlp'), ('attention',)
COUNTS = json.loads((REFERENCE / 'full_size_counts.json').read_text())['arc']


def fresh(case: dict) -> nn.Module:
    """Build a classifier as a user gets it: drawn trunk, initial adapters."""
    model, _, _ = make_pair(case)
    tuner = ARCTuner(case_of(case)['positions'], case_of(case)['dims'])
    tuner.attach(model.backbone.trunk)
    model.backbone.tuner = tuner
    return model.float()


@pytest.mark.parametrize('case', [VIT, SWIN], ids=['ViT', 'Swin'])
def test_new_parameters_start_as_officially(case):
    model = fresh(dict(case, dims=50))
    tuner = model.backbone.tuner
    assert not any(scale.any() for scale in tuner.attention.scales)
    bound = (6 / (1 + 50)) ** 0.5
    scales = torch.cat([scale.detach() for scale in tuner.mlp.scales])
    assert 0.8 * bound < scales.abs().max() <= bound
    for adapters in (tuner.attention, tuner.mlp):
        assert not any(bias.any() for bias in adapters.biases)
        for projection in adapters.projections:
            bound = (6 / sum(projection.shape)) ** 0.5
            assert 0.95 * bound < projection.abs().max() <= bound


@pytest.mark.parametrize('case', [VIT, SWIN], ids=['ViT', 'Swin'])
def test_attention_adapters_start_as_the_identity_and_those_of_the_mlp_do_not(case):
    for positions, same in ((ATTENTION, True), (('mlp',), False)):
        model = fresh(dict(case, positions=positions)).eval()
        image = case_images(case).float()
        bare = FrozenTuner()
        with torch.no_grad():
            adapted = model.backbone(image)[0]
            model.backbone.tuner = bare
            assert adapted.equal(model.backbone(image)[0]) == same


def test_projections_are_shared_by_a_vit_and_by_each_stage_of_a_swin():
    assert [len(fresh(VIT).backbone.tuner.mlp.projections)] == [1]
    swin = fresh(dict(depths=(2, 3))).backbone.tuner
    assert [tuple(p.shape) for p in swin.mlp.projections] == [(16, 6), (32, 6)]
    assert swin.attention.stages == (0, 0, 1, 1, 1)


@pytest.mark.parametrize('case', [VIT, SWIN], ids=['ViT', 'Swin'])
def test_everything_that_is_trained_has_a_gradient_by_step_three(case):
    model = fresh(case).train()
    nn.init.zeros_(model.head.fc.weight)  # the official start
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    owned = ('backbone.tuner.', 'head.')
    assert trained and all(name.startswith(owned) for name in trained)
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    image, labels = case_images(case).float(), torch.tensor([0, 1, 2])
    moved = []
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(image, mode='tensor'), labels).backward()
        assert all(p.grad is not None for p in trained.values())
        moved.append({name for name, p in trained.items() if p.grad.any()})
        optimizer.step()
    assert moved[0] == {'head.fc.weight', 'head.fc.bias'}, 'a head of zeros moves alone at first'
    assert moved[2] == trained.keys()


@pytest.mark.parametrize(
    'trunk, arch, positions, width, case',
    [
        ('ViTTrunk', 'vit_base_patch16_224', BOTH, 768, 'vit_b16_ARC_adapter_dim_50'),
        ('ViTTrunk', 'vit_base_patch16_224', ATTENTION, 768, 'vit_b16_ARC_att_adapter_dim_50'),
        ('SwinTrunk', 'swin_base_patch4_window7_224', BOTH, 1024, 'swin_b_ARC_svd_dim_50'),
    ],
)
def test_counts_at_full_size_are_the_official_ones(trunk, arch, positions, width, case):
    options = dict(weight_init='skip') if trunk == 'ViTTrunk' else {}
    config = dict(
        type='ImageClassifier',
        backbone=dict(
            type='hstpeft.TunedBackbone',
            trunk=dict(type=f'hstpeft.{trunk}', arch=arch, arch_options=options),
            tuner=dict(type='hstpeft.ARCTuner', positions=positions),
        ),
        head=dict(type='LinearClsHead', num_classes=100, in_channels=width),
    )
    with torch.device('meta'):
        model = MODELS.build(config)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    trained = sum(n for n, free in sizes if free)
    head = sum(p.numel() for p in model.head.parameters())
    assert trained - head == COUNTS[case]['trainable_without_head']
    assert trained == COUNTS[case]['trainable_100_classes']
    assert sum(n for n, _ in sizes) == COUNTS[case]['total_100_classes']


MERGED = {
    'ViT': VIT,
    'ViT, attention': dict(VIT, positions=ATTENTION),
    'ViT, MLP': dict(VIT, positions=('mlp',)),
    'wide ViT': dict(depth=2, grid=(2, 5)),
    'Swin, attention': dict(SWIN, positions=ATTENTION),
    'wide Swin, attention': dict(SWIN, positions=ATTENTION, grid=(8, 20), window=2),
}


@pytest.mark.parametrize('name', MERGED)
def test_the_merged_model_is_the_bare_trunk_and_gives_the_same_logits(name):
    case = MERGED[name]
    model, _, _ = make_pair(case)
    model.eval()
    image = case_images(case)
    before = model(image, mode='tensor')
    trunk, merged = merge(model)
    assert type(merged.backbone.tuner) is FrozenTuner
    assert not list(merged.backbone.tuner.parameters())
    torch.testing.assert_close(merged(image, mode='tensor'), before, rtol=0, atol=1e-10)
    assert model(image, mode='tensor').equal(before), 'the model itself was changed'
    assert trunk.keys() == dict(model.backbone.trunk.net.named_parameters()).keys()
    net = type(model.backbone.trunk)
    alone = build(classifier(case_of(case), trunk), seed=None).double()
    alone.backbone.tuner = FrozenTuner()
    assert type(alone.backbone.trunk) is net
    alone.head.load_state_dict(model.head.state_dict())
    torch.testing.assert_close(alone.eval()(image, mode='tensor'), before, rtol=0, atol=1e-6)


def test_in_single_precision_merging_moves_the_logits_by_rounding_only():
    model, _, _ = make_pair(VIT)
    model.float().eval()
    image = case_images(VIT).float()
    _, merged = merge(model)
    change = (merged(image, mode='tensor') - model(image, mode='tensor')).abs().max()
    assert change < 1e-5


def test_timm_alone_runs_a_merged_trunk():
    case = dict(SWIN, positions=ATTENTION)
    model, _, _ = make_pair(case)
    trunk, _ = merge(model.float().eval())
    swin = timm.create_model(
        SWIN_ARCH, num_classes=0, embed_dim=16, depths=(2, 2), num_heads=(2, 4), patch_size=2,
        img_size=16, window_size=4, mlp_ratio=2.0,
    )  # fmt: skip
    swin.load_state_dict(trunk)
    image = case_images(case).float()
    torch.testing.assert_close(swin.eval()(image), model.backbone(image)[0], rtol=0, atol=1e-5)


def test_what_a_merged_model_saves_loads_on_the_merged_trunk_only():
    model, _, _ = make_pair(VIT)
    trunk, merged = merge(model.float())
    config = classifier(case_of(VIT), trunk)
    config['backbone']['tuner'] = dict(type='hstpeft.FrozenTuner')
    other = build(config, seed=None)
    other.load_state_dict(merged.state_dict())
    assert other.state_dict().keys() == {'backbone._extra_state', 'head.fc.weight', 'head.fc.bias'}
    config['backbone']['trunk']['weights'] = dict(model.backbone.trunk.vit.named_parameters())
    with pytest.raises(UserError, match='was made on the trunk'):
        build(config, seed=None).load_state_dict(merged.state_dict())


@pytest.mark.parametrize('positions', [BOTH, ('mlp',)])
def test_the_mlp_adapters_of_a_swin_cannot_be_merged_and_the_message_says_what_can(positions):
    model, _, _ = make_pair(dict(SWIN, positions=positions))
    with pytest.raises(UserError, match=r"residual stream.*positions=\['attention'\].*export"):
        merge(model)


def test_padded_windows_of_a_swin_are_the_stated_limit_of_merging():
    model, _, _ = make_pair(dict(SWIN, positions=ATTENTION))
    _, merged = merge(model.eval())
    image = images(1, 3, 20, 20).double()  # a grid of 10 x 10, windows of 4 x 4
    change = (merged(image, mode='tensor') - model(image, mode='tensor')).abs().max()
    assert 1e-6 < change < 1


def test_arc_adapts_an_hvt_and_merges_into_it():
    options = dict(
        embed_dim=16, depth=3, num_heads=2, img_size=32, patch_size=8, weight_init='skip'
    )
    shapes = HVTTrunk(arch_options=options, pool_width=2).vit.state_dict()
    weights = draw({key: value.shape for key, value in shapes.items()})
    config = dict(
        type='ImageClassifier',
        backbone=dict(
            type='hstpeft.TunedBackbone',
            trunk=dict(
                type='hstpeft.HVTTrunk', arch_options=options, pool_width=2, weights=weights
            ),
            tuner=dict(type='hstpeft.ARCTuner', adapter_dims=4),
        ),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=16),
    )
    model = build(config).double().eval()
    image = images(2, 3, 32, 32).double()
    before = model(image, mode='tensor')
    torch.testing.assert_close(merge(model)[1](image, mode='tensor'), before, rtol=0, atol=1e-10)


@pytest.mark.parametrize('case', [VIT, SWIN], ids=['ViT', 'Swin'])
def test_a_trunk_in_bfloat16_keeps_its_adapters_in_single_precision(case):
    c = case_of(case)
    model, _, _ = make_pair(case)
    weights = dict(model.backbone.trunk.net.named_parameters())
    config = classifier(c, {key: value.detach().float() for key, value in weights.items()})
    config['backbone']['trunk']['dtype'] = 'bfloat16'
    half = build(config, seed=None)
    half.load_state_dict(model.float().state_dict())
    image = case_images(case).float()
    got, expected = half.backbone(image)[0], model.backbone(image)[0]
    assert (got - expected).norm() < 0.05 * expected.norm()
    got.square().mean().backward()
    for parameter in half.backbone.tuner.parameters():
        assert parameter.dtype == torch.float32 and parameter.grad.isfinite().all()


@pytest.mark.parametrize(
    'options, word',
    [
        (dict(positions=['atention']), "tuner.positions 'atention' is unknown: did you mean 'atte"),
        (dict(positions=['attention', 'attention']), 'each once'),
        (dict(positions=[]), 'each once'),
        (dict(adapter_dims=0), 'tuner.adapter_dims 0 must be at least 1'),
        (dict(drop_rate=1.0), 'tuner.drop_rate 1.0 must be from 0 to below 1'),
        (dict(drop_rate=-0.1), 'tuner.drop_rate -0.1'),
    ],
)
def test_a_wrong_option_is_refused_by_name_and_value(options, word):
    with pytest.raises(UserError) as info:
        ARCTuner(**options)
    assert word in str(info.value)


def test_one_position_may_be_given_as_a_word():
    assert ARCTuner('mlp').positions == ('mlp',)


def test_the_delta_holds_the_adapters_and_the_head():
    _, names = official_weights(case_of(VIT), 0)
    model, _, _ = make_pair(VIT)
    own = {name for name in names.values() if isinstance(name, str)}
    adapted = {name for name in own if name.startswith(('backbone.tuner.', 'head.'))}
    assert model.state_dict().keys() == adapted | {'backbone._extra_state'}
