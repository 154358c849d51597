"""What the optimiser gets: trainable parameters only, and the recipe's decay rule."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
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
