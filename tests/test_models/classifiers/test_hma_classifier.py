"""HMA's momentum encoder: its order, its state, and what it shares with the encoder."""

import copy
import functools

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

from hstpeft.delta import load_checkpoint, make_delta, save_delta
from hstpeft.engine.checkpoint import check_checkpoint
from hstpeft.errors import UserError
from tests.support.hma_parts import (
    CLASSES,
    DIMS,
    SMALL,
    Encoder,
    batch,
    labels_of,
    make_classifier,
    make_vit_classifier,
)
from tests.support.models import changed, images, snapshot

COPY = 'momentum_backbone.'


def train_step(model: nn.Module, seed: int = 0, size: int = 4) -> None:
    """Take a step of SGD, on drawn features or images."""
    x, samples = batch(size, seed, dims=10)
    if not isinstance(model.backbone, Encoder):
        x = images(size, 3, 32, 32, seed=seed)
    model.zero_grad()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    model.train()(x, samples, mode='loss')['loss'].backward()
    optimizer.step()


def test_the_copy_moves_after_the_read_and_before_its_features_are_remembered():
    model = make_classifier(0.9).train()
    x, samples = batch(4, dims=10)
    with torch.no_grad():  # apart from the encoder, so that the order shows
        model.momentum_backbone.trained.weight.add_(0.3)
    before, expected = copy.deepcopy(model), copy.deepcopy(model)
    losses = model(x, samples, mode='loss')
    for name in ('weight', 'bias'):
        own = getattr(before.backbone.trained, name)
        follower = getattr(expected.momentum_backbone.trained, name)
        follower.data = 0.9 * follower + 0.1 * own
        got = getattr(model.momentum_backbone.trained, name)
        torch.testing.assert_close(got, follower, rtol=0, atol=1e-7)
    feats = expected.momentum_features(x)[-1]
    torch.testing.assert_close(model.head.queue.rows[:4, :DIMS], feats)
    assert model.head.queue.labels[:4].equal(labels_of(samples))
    without = before.head.loss(before.extract_feat(x), samples, remember=False)
    assert losses['loss'].equal(without['loss']), 'the read sees the queue before the write'


def test_without_momentum_the_detached_features_are_remembered():
    model = make_classifier(0.0).train()
    x, samples = batch(4, dims=10)
    feats = copy.deepcopy(model).extract_feat(x)[-1]
    model(x, samples, mode='loss')['loss'].backward()
    assert model.head.queue.rows[:4, :DIMS].equal(feats.detach())
    assert not [key for key in model.state_dict() if 'momentum' in key]


def test_nothing_moves_in_evaluation():
    model = make_classifier(0.9).eval()
    with torch.no_grad():
        model.momentum_backbone.trained.weight.add_(0.3)
    before = snapshot(model)
    x, samples = batch(4, dims=10)
    model(x, samples, mode='loss')
    model(x, samples, mode='predict')
    model(x)
    assert not changed(model, before)


def test_the_copy_gets_no_gradient_and_starts_as_the_encoder():
    model = make_classifier(0.9)
    for name, p in model.momentum_backbone.named_parameters():
        assert p.equal(dict(model.backbone.named_parameters())[name])
        assert not p.requires_grad
    x, samples = batch(4, dims=10)
    model.train()(x, samples, mode='loss')['loss'].backward()
    assert all(p.grad is None for p in model.momentum_backbone.parameters())
    assert all(p.grad is not None for p in model.backbone.trained.parameters())


def test_initialised_weights_reach_the_copy():
    neck = dict(
        type='mmpretrain.LinearNeck', in_channels=DIMS, out_channels=DIMS,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.5), norm_cfg=None, act_cfg=None,
    )  # fmt: skip
    model = make_classifier(0.5, neck=neck)
    before = model.neck.fc.weight.clone()
    model.init_weights()
    assert not model.neck.fc.weight.equal(before)
    assert model.momentum_neck.fc.weight.equal(model.neck.fc.weight)
    assert 'momentum_neck.fc.weight' in model.state_dict()
    start = model.neck.fc.weight.clone()
    train_step(model)
    assert model.momentum_neck.fc.weight.equal(start)
    first = model.neck.fc.weight.clone()
    train_step(model)
    expected = (start + first) / 2
    torch.testing.assert_close(model.momentum_neck.fc.weight, expected, rtol=0, atol=1e-7)
    assert not first.equal(start)


TRAINED = {'trained.weight', 'trained.bias', 'trunk.vit.cls_token', 'tuner.memory_tokens.0'}


def assert_shared(model: nn.Module) -> None:
    """Check that what is frozen is held once, and what is trained twice."""
    followers = dict(model.momentum_backbone.named_parameters())
    alone = set()
    for name, p in model.backbone.named_parameters():
        same = followers[name] is p
        assert same == (followers[name].data_ptr() == p.data_ptr()), name
        alone |= set() if same else {name}
    assert alone == TRAINED & followers.keys()
    assert alone < followers.keys()


KINDS = {
    'plain encoder': make_classifier,
    'tuned ViT': make_vit_classifier,
    'tuned ViT without weights': functools.partial(make_vit_classifier, weights=None),
}
each_kind = pytest.mark.parametrize('make', KINDS.values(), ids=KINDS)


@each_kind
def test_frozen_tensors_are_shared_whatever_happens_to_the_model(make):
    model = make(0.9)
    assert_shared(model)
    assert_shared(copy.deepcopy(model))
    own = {p.data_ptr() for p in model.parameters()}
    assert not own & {p.data_ptr() for p in copy.deepcopy(model).parameters()}
    train_step(model)
    assert_shared(model)
    other = make(0.9)
    other.load_state_dict(model.state_dict())
    assert not changed(other, snapshot(model))
    assert_shared(other)
    assert_shared(model.double())


def delta_of(model: nn.Module, folder, name: str = 'delta.pth'):
    state = model.state_dict()
    path = folder / name
    save_delta(make_delta({'state_dict': state}), path)
    return path


@pytest.mark.parametrize('name', ['delta.pth', 'delta.safetensors'])
def test_the_delta_holds_queue_and_copy_and_no_trunk(tmp_path, name):
    model = make_vit_classifier(0.9)
    for seed in range(3):
        train_step(model, seed, size=5)
    loaded = load_checkpoint(delta_of(model, tmp_path, name))
    keys = loaded['state_dict'].keys()
    assert {key for key in keys if key.startswith(COPY)} == {
        f'{COPY}tuner.memory_tokens.0', f'{COPY}trunk.vit.cls_token',
    }  # fmt: skip
    memory = {'rows', 'pointer', 'labels'}
    assert {f'head.queue.{part}' for part in memory} < keys
    assert not [key for key in keys if 'blocks' in key]
    other = make_vit_classifier(0.9)
    assert changed(other, snapshot(model))
    check_checkpoint(other, loaded, allow_new_head=False)
    other.load_state_dict(loaded['state_dict'], strict=True)
    assert not changed(other, snapshot(model))
    assert other.head.queue.pointer.tolist() == [3]
    copied = model.momentum_backbone.tuner.memory_tokens[0]
    assert not copied.equal(model.backbone.tuner.memory_tokens[0])


@each_kind
@pytest.mark.parametrize('strict', [True, False])
def test_mmengine_loads_it(make, strict):
    model, other = make(0.9), make(0.9)
    train_step(model)
    mmengine_checkpoint.load_state_dict(other, model.state_dict(), strict=strict)
    assert not changed(other, snapshot(model))


def test_a_resumed_run_goes_on_as_an_unbroken_one():
    model, resumed = make_vit_classifier(0.9), make_vit_classifier(0.9)
    train_step(model)
    resumed.load_state_dict(model.state_dict())
    for net in (model, resumed):
        train_step(net, seed=1, size=5)
    assert not changed(resumed, snapshot(model))


def test_a_delta_for_a_new_task_brings_its_encoder_to_the_copy():
    model, other = make_vit_classifier(0.9), make_vit_classifier(0.9)
    train_step(model)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith(COPY)}
    with pytest.raises(UserError, match=r'momentum_backbone.*allow-new-head'):
        check_checkpoint(other, {'state_dict': dict(state)}, allow_new_head=False)
    mmengine_checkpoint.load_state_dict(other, state, strict=False)
    token = model.backbone.tuner.memory_tokens[0]
    assert other.momentum_backbone.tuner.memory_tokens[0].equal(token)
    assert other.backbone.tuner.memory_tokens[0].equal(token)


def test_a_copy_that_lacks_a_tensor_is_refused():
    model = make_vit_classifier(0.9)
    state = model.state_dict()
    del state[f'{COPY}tuner.memory_tokens.0']
    with pytest.raises(UserError, match=r'missing: tuner\.memory_tokens\.0'):
        model.load_state_dict(state)


@pytest.mark.parametrize('update_buffers', [False, True])
def test_the_moving_average_of_mmengine_works_on_it(update_buffers):
    model = make_vit_classifier(0.9)
    average = ExponentialMovingAverage(model, momentum=0.5, update_buffers=update_buffers)
    average.update_parameters(model)
    train_step(model)
    average.update_parameters(model)
    assert_shared(average.module)
    assert average.module.head.queue.labels.equal(model.head.queue.labels) != update_buffers
    state = {k.removeprefix('module.'): v for k, v in average.state_dict().items() if k != 'steps'}
    assert state.keys() == model.state_dict().keys()
    make_vit_classifier(0.9).load_state_dict(state)


@pytest.mark.parametrize(
    'momentum, options, words',
    [
        (1.0, {}, 'encoder_momentum 1.0 must be from 0 to below 1'),
        (-0.1, {}, 'encoder_momentum -0.1 must be'),
        (
            0.9,
            dict(
                head=dict(
                    type='hstpeft.HMAClsHead', num_classes=CLASSES, in_channels=DIMS,
                    **{**SMALL, 'local_memory': None},
                )
            ),
            'feeds a local memory and the head writes none',
        ),
        (
            0.9,
            dict(
                head=dict(
                    type='hstpeft.HMAClsHead', num_classes=CLASSES, in_channels=DIMS,
                    **{**SMALL, 'local_memory': dict(update='never')},
                )
            ),
            'feeds a local memory and the head writes none',
        ),
        (
            0.9,
            dict(head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=DIMS)),
            'feeds a local memory and the head writes none',
        ),
        (0.9, dict(backbone=Encoder().requires_grad_(False)), 'nothing in backbone and neck is'),
    ],
)  # fmt: skip
def test_a_momentum_without_effect_is_refused(momentum, options, words):
    with pytest.raises(UserError, match=words):
        make_classifier(momentum, **options)
