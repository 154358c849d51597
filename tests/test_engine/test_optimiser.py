"""What the optimiser gets: trainable parameters only, and the recipe's decay rule."""

import pytest
import torch
from mmengine.optim import LinearLR, build_optim_wrapper
from mmengine.registry import MODEL_WRAPPERS
from torch import nn

from hstpeft.delta import owner_table
from hstpeft.engine.report import render_table
from hstpeft.errors import UserError
from tests.support.models import backbone_config, build, classifier_config, trunk_config


@pytest.fixture(scope='module')
def model() -> nn.Module:
    return build(classifier_config())


def groups(model: nn.Module, **paramwise) -> dict[str, float]:
    """Map the name of each optimised parameter to its weight decay."""
    config = dict(
        type='OptimWrapper',
        constructor='hstpeft.DeltaOptimWrapperConstructor',
        optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.5),
        paramwise_cfg=paramwise,
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_optim_wrapper(model, config).optimizer
    found = [
        (names[id(parameter)], group['weight_decay'])
        for group in optimizer.param_groups
        for parameter in group['params']
    ]
    assert len(dict(found)) == len(found), 'a parameter is in two groups'
    return dict(found)


def test_exactly_the_trainable_parameters_are_optimised(model):
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert groups(model).keys() == trainable
    frozen = {name for name, _ in model.named_parameters()} - trainable
    assert any('attn.qkv' in name for name in frozen)
    assert any('norm1' in name for name in trainable)


@pytest.mark.parametrize(
    ('paramwise', 'flat', 'tokens'),
    [
        ({}, 0, 0.5),
        (dict(flat_decay_mult=0.0, token_decay_mult=0.0), 0, 0),
        (dict(flat_decay_mult=0.5, token_decay_mult=0.1), 0.25, 0.05),
    ],
)
def test_decay_of_vectors_tokens_and_matrices(model, paramwise, flat, tokens):
    found = groups(model, **paramwise)
    kinds = {'vector': set(), 'token': set(), 'matrix': set()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            vector = 'vector' if parameter.dim() < 2 else 'matrix'
            kinds['token' if 'meta_tokens' in name else vector].add(round(found[name], 9))
    assert kinds == {'vector': {flat}, 'token': {tokens}, 'matrix': {0.5}}


SWIN = dict(
    type='hstpeft.SwinTrunk',
    arch='swin_base_patch4_window7_224',
    arch_options=dict(img_size=64, embed_dim=16, depths=(2, 1), num_heads=(2, 2), window_size=8),
)
HVT = dict(
    type='hstpeft.HVTTrunk',
    arch='hvt_s_4',
    arch_options=dict(img_size=64, embed_dim=16, depth=5, num_heads=2),
)
TOKENS = {
    'vit': (trunk_config(weights=None, reg_tokens=2), {'cls_token', 'reg_token', 'pos_embed'}),
    'hvt': (HVT, {'pos_embed', 'blocks.0.pos_embed', 'blocks.3.pos_embed'}),
    'swin': (
        SWIN,
        {
            f'layers.{stage}.blocks.{block}.attn.relative_position_bias_table'
            for stage, block in ((0, 0), (0, 1), (1, 0))
        },
    ),
}


@pytest.mark.parametrize('family', TOKENS)
def test_tokens_and_positions_of_a_trained_trunk_decay_as_tokens(family):
    trunk, expected = TOKENS[family]
    full = build(backbone_config(trunk, dict(type='hstpeft.FullTuner')), seed=None)
    model = nn.Module()
    model.backbone = full
    found = groups(model, token_decay_mult=0.1)
    assert len(found) == len(list(full.parameters()))
    kinds = {'token': set(), 'vector': set(), 'matrix': set()}
    for name, parameter in model.named_parameters():
        own = name.removeprefix('backbone.trunk.').partition('.')[2]
        kind = 'token' if own in expected else 'vector' if parameter.dim() < 2 else 'matrix'
        kinds[kind].add(round(found[name], 9))
    assert kinds == {'token': {0.05}, 'vector': {0}, 'matrix': {0.5}}


def rates(tuner, trunk=None, layer_decay=0.5, **options):
    """Map the name of each optimised parameter of a backbone (and a head) to its rate over ``lr``."""
    model = nn.Module()
    config = backbone_config(trunk or trunk_config(), tuner, **options)
    model.backbone, model.head = build(config, seed=None), nn.Linear(2, 2)
    wrapper = dict(
        constructor='hstpeft.DeltaOptimWrapperConstructor',
        optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.5),
        paramwise_cfg=dict(layer_decay=layer_decay),
    )
    optim = build_optim_wrapper(model, wrapper)
    scheduler = LinearLR(optim, start_factor=0.1, end=3)
    for _ in range(3):  # each group comes back to its own rate
        optim.step()
        scheduler.step()
    names = {id(p): n.removeprefix('backbone.trunk.') for n, p in model.named_parameters()}
    return {
        names[id(p)]: round(group['lr'] / 0.1, 9)
        for group in optim.optimizer.param_groups
        for p in group['params']
    }


def test_rates_of_a_vit_fall_with_the_distance_from_the_head():
    found = rates(dict(type='hstpeft.FullTuner'))
    for name, rate in found.items():
        place = name.split('.')
        if place[1:2] == ['blocks']:
            assert rate == 0.5 ** (4 - int(place[2])), name
        else:
            behind = name.startswith(('vit.norm.', 'head.'))
            assert rate == (1 if behind else 0.5**5), name
    early = rates(dict(type='hstpeft.FullTuner'), out_indices=(1,))
    assert early['vit.blocks.1.attn.qkv.weight'] == 0.5
    assert early['vit.pos_embed'] == 0.5**3


def test_rates_of_a_swin_count_its_blocks_through_all_stages():
    found = rates(dict(type='hstpeft.FullTuner'), SWIN)
    expected = {
        'patch_embed.proj': 4, 'layers.0.blocks.0.attn.qkv': 3, 'layers.0.blocks.1.mlp.fc1': 2,
        'layers.1.downsample.reduction': 2, 'layers.1.blocks.0.attn.qkv': 1, 'norm': 0,
    }  # fmt: skip
    for name, power in expected.items():
        assert found[f'swin.{name}.weight'] == 0.5**power, name


@pytest.mark.parametrize('tuner', ['LoRATuner', 'SSFTuner', 'ARCTuner'])
def test_layer_decay_does_not_reach_what_a_tuner_adds(tuner):
    with pytest.raises(UserError, match=r'layer_decay 0\.5 has no effect: nothing of the trunk'):
        rates(dict(type=f'hstpeft.{tuner}'))


def test_layer_decay_reaches_what_is_trained_of_a_trunk_in_part():
    found = rates(dict(type='hstpeft.SelectiveTuner', last_blocks=1, parts=['cls_token']))
    assert found.pop('vit.cls_token') == 0.5**5
    assert {n.partition('.blocks.')[2][:1]: r for n, r in found.items() if 'blocks' in n} == {
        '3': 0.5
    }
    assert found['head.weight'] == found['vit.norm.weight'] == 1


@pytest.mark.parametrize('value', [0.0, 1.5, -1.0])
def test_a_layer_decay_out_of_range_is_refused(value):
    with pytest.raises(UserError, match=f'layer_decay {value} must be above 0'):
        rates(dict(type='hstpeft.FullTuner'), layer_decay=value)


def test_wrapped_model_gives_the_same_groups(model):
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    MODEL_WRAPPERS.register_module(name='WrapperOfTheTest', module=Wrapper, force=True)
    wrapped = groups(Wrapper(model), token_decay_mult=0.0)
    assert {k.removeprefix('module.'): v for k, v in wrapped.items()} == groups(
        model, token_decay_mult=0.0
    )


def test_misspelt_rule_gets_the_nearest_name(model):
    with pytest.raises(
        UserError, match=r"'flat_decay_mul' is unknown: did you mean 'flat_decay_mult'"
    ):
        groups(model, flat_decay_mul=0.0)


def test_a_model_with_nothing_to_train_is_refused():
    with pytest.raises(UserError, match='nothing is trainable'):
        groups(nn.Linear(2, 2).requires_grad_(False))


def test_start_up_table_sums_by_owner(model):
    rows = {owner: (free, size) for owner, free, size in owner_table(model)}
    trunk, tuner = model.backbone.trunk, model.backbone.tuner
    assert rows['backbone.tuner'] == (count(tuner, True), count(tuner))
    assert rows['backbone.trunk'] == (count(trunk, True), count(trunk))
    assert 0 < rows['backbone.trunk'][0] < rows['backbone.trunk'][1]
    last = render_table(model).splitlines()[-2]
    assert f'{count(model, True):,}' in last
    assert f'{count(model):,}' in last


def count(module: nn.Module, trainable: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def test_bfloat16_wrapper_keeps_the_parameters_in_float32(model):
    config = dict(
        type='hstpeft.BFloat16OptimWrapper',
        optimizer=dict(type='SGD', lr=0.1),
        accumulative_counts=1,
    )
    wrapper = build_optim_wrapper(model, config)
    with wrapper.optim_context(model):
        assert model.head.fc(torch.randn(2, 16)).dtype == torch.bfloat16
    assert model.head.fc(torch.randn(2, 16)).dtype == torch.float32
    assert {p.dtype for group in wrapper.optimizer.param_groups for p in group['params']} == {
        torch.float32
    }
