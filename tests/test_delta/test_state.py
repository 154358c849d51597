"""A state dict is the delta: these keys, strict about the trunk, the same after every copy."""

import copy

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

from tests.support.loading import LOADERS
from tests.support.models import (
    backbone_config,
    build,
    changed,
    classifier_config,
    hst_config,
    images,
    redraw,
    snapshot,
    trunk_config,
)  # fmt: skip


def expand(prefix: str, *names: str) -> set[str]:
    return {f'{prefix}.{name}' for name in names}


def affine(prefix: str, *names: str) -> set[str]:
    return {f'{prefix}.{name}.{leaf}' for name in names for leaf in ('weight', 'bias')}


STATISTICS = ('running_mean', 'running_var', 'num_batches_tracked')
STAGE = 'backbone.tuner.side.stages'
STAGE_PARTS = (
    'embed.norm', 'bridge', 'meta_norms.0', 'norm', 'blocks.0.norm1', 'blocks.0.norm2',
    'blocks.0.attn.q', 'blocks.0.attn.k', 'blocks.0.attn.v', 'blocks.0.attn.proj',
    'blocks.0.mlp.0', 'blocks.0.mlp.2',
)  # fmt: skip
DELTA_KEYS = (
    {'backbone._extra_state'}
    | set().union(*(affine(f'backbone.trunk.vit.blocks.{i}', 'norm1', 'norm2') for i in range(4)))
    | {f'backbone.tuner.meta_tokens.{i}' for i in range(4)}
    | {f'{STAGE}.0.embed.conv.0.weight'}
    | affine(f'{STAGE}.0.embed.conv', '1', '3')
    | expand(f'{STAGE}.0.embed.conv.1', *STATISTICS)
    | set().union(*(affine(f'{STAGE}.{s}.embed', 'conv') for s in (1, 2, 3)))
    | set().union(*(affine(f'{STAGE}.{s}', *STAGE_PARTS) for s in range(4)))
    | expand('neck.norm', *STATISTICS)
    | affine('head', 'fc')
)


def logits(model: nn.Module, image=None) -> torch.Tensor:
    with torch.no_grad():
        image = images(2, 3, 32, 40) if image is None else image
        return model.eval().head(model.neck(model.backbone(image)))


def trained_model(seed: int = 5) -> nn.Module:
    model = build(classifier_config(), seed=seed).train()
    model.neck(model.backbone(images(4, 3, 32, 32)))  # moves the running statistics
    return model


def test_the_state_dict_of_hst_is_exactly_this_delta():
    assert set(build(classifier_config()).state_dict()) == DELTA_KEYS


def test_the_delta_holds_every_trainable_parameter_and_no_frozen_one():
    model = build(classifier_config())
    state = model.state_dict()
    for name, parameter in model.named_parameters():
        assert (name in state) == parameter.requires_grad, name


def test_a_frozen_trunk_has_only_its_identity_in_the_state_dict():
    backbone = build(backbone_config(tuner=dict(type='hstpeft.FrozenTuner')), seed=None)
    assert set(backbone.state_dict()) == {'_extra_state'}


def test_a_random_trunk_belongs_to_the_delta():
    config = classifier_config(backbone_config(trunk_config(weights=None)))
    model, other = build(config, seed=None), build(config, seed=None)
    every = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    every -= {'data_preprocessor.mean', 'data_preprocessor.std'}
    assert set(model.state_dict()) == every | {'backbone._extra_state'}
    assert not logits(other).equal(logits(model))
    other.load_state_dict(model.state_dict(), strict=True)
    assert logits(other).equal(logits(model))


@pytest.mark.parametrize('load', LOADERS)
def test_every_loader_gives_bit_equal_logits(load):
    saved = trained_model()
    state = saved.state_dict()
    keys = list(state)
    model = build(classifier_config(), seed=1)
    assert not logits(model).equal(logits(saved))
    load(model, state)
    assert logits(model).equal(logits(saved))
    assert list(state) == keys  # the caller's dict is not filled with trunk tensors


def test_mmengine_writes_and_reads_the_delta_as_its_own_checkpoint(tmp_path):
    saved = trained_model()
    state = mmengine_checkpoint.weights_to_cpu(mmengine_checkpoint.get_state_dict(saved))
    assert set(state) == DELTA_KEYS
    torch.save({'state_dict': state, 'meta': {}}, tmp_path / 'epoch_1.pth')
    model = build(classifier_config(), seed=1)
    mmengine_checkpoint.load_checkpoint(model, str(tmp_path / 'epoch_1.pth'), strict=True)
    assert logits(model).equal(logits(saved))


def test_running_statistics_travel_with_the_delta():
    saved, model = trained_model(), build(classifier_config(), seed=1)
    assert saved.neck.norm.num_batches_tracked == 1
    model.load_state_dict(saved.state_dict())
    assert model.neck.norm.running_var.equal(saved.neck.norm.running_var)
    assert model.backbone.tuner.side.stages[0].embed.conv[1].num_batches_tracked == 1


@pytest.mark.parametrize('depth', [1, 3])
def test_any_prefix_works(depth):
    def wrapped(model):
        for _ in range(depth):
            model = nn.ModuleDict({'inner': model, 'more': nn.Linear(2, 2)})
        return model

    saved, model = trained_model(), build(classifier_config(), seed=1)
    outer, prefix = wrapped(saved), 'inner.' * depth
    state = outer.state_dict()
    assert {key.removeprefix(prefix) for key in state if key.startswith(prefix)} == DELTA_KEYS
    wrapped(model).load_state_dict(state, strict=True)
    assert logits(model).equal(logits(saved))


def test_two_backbones_in_one_module_keep_their_own_values():
    pair = nn.ModuleList([trained_model(1), trained_model(2)])
    other = nn.ModuleList([trained_model(3), trained_model(4)])
    other.load_state_dict(pair.state_dict(), strict=True)
    assert all(logits(a).equal(logits(b)) for a, b in zip(other, pair, strict=True))


def test_a_deepcopy_saves_and_loads_its_own_values():
    model = trained_model(1)
    copied = copy.deepcopy(model)
    redraw(copied, seed=2)
    before = snapshot(model)
    assert not copied.state_dict()['head.fc.weight'].equal(model.state_dict()['head.fc.weight'])
    assert set(copied.state_dict()) == DELTA_KEYS
    copied.load_state_dict(trained_model(3).state_dict(), strict=True)
    assert logits(copied).equal(logits(trained_model(3)))
    assert not changed(model, before)


@pytest.mark.parametrize('update_buffers', [False, True])
def test_the_moving_average_of_mmengine_has_the_whole_delta(update_buffers):
    model = trained_model(1)
    average = ExponentialMovingAverage(model, momentum=0.5, update_buffers=update_buffers)
    average.update_parameters(model)
    redraw(model, seed=2)
    average.update_parameters(model)
    assert set(average.state_dict()) == {'steps'} | {f'module.{key}' for key in DELTA_KEYS}
    name = 'backbone.trunk.vit.blocks.0.norm1.weight'
    old, new = trained_model(1).state_dict()[name], model.state_dict()[name]
    torch.testing.assert_close(average.state_dict()[f'module.{name}'], (old + new) / 2)
    restored = build(classifier_config(), seed=3)
    averaged = {key.removeprefix('module.'): v for key, v in average.state_dict().items()}
    averaged.pop('steps')
    restored.load_state_dict(averaged, strict=True)
    assert not changed(restored, snapshot(average.module))
    ExponentialMovingAverage(
        build(classifier_config()), update_buffers=update_buffers
    ).load_state_dict(average.state_dict(), strict=True)


def test_freezing_a_trained_model_does_not_change_its_delta():
    model = trained_model()
    state = model.state_dict()
    model.requires_grad_(False)
    assert set(model.state_dict()) == set(state)
    build(classifier_config()).load_state_dict(model.state_dict(), strict=True)


def test_a_delta_of_a_float32_trunk_fits_the_same_trunk_in_bfloat16():
    model = build(classifier_config(backbone_config(trunk_config(dtype='bfloat16'))), seed=1)
    saved = trained_model()
    model.load_state_dict(saved.state_dict(), strict=True)
    assert set(model.state_dict()) == DELTA_KEYS
    assert (logits(model) - logits(saved)).abs().max() < 0.2


def test_side_options_that_change_no_shape_do_not_change_the_keys():
    config = classifier_config(backbone_config(tuner=hst_config(side_drop_path_rate=0.3)))
    model = build(config)
    assert set(model.state_dict()) == DELTA_KEYS
    model.load_state_dict(trained_model().state_dict(), strict=True)
