"""Learnable memory tokens compute their equations; what they train, begin with and refuse."""

import json
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from hstpeft.delta.merge import merge
from hstpeft.errors import UserError
from hstpeft.models.tuners import MemoryTokensTuner
from hstpeft.official import TRUNK, split_memory_tokens
from hstpeft.official.memory_tokens import memory_token_names
from hstpeft.oracle.literal.memory_tokens import (
    LiteralMemoryTokens,
    MemoryTokensOptions,
    is_trainable,
    memory_tokens_shapes,
)
from tests.support.models import ARCH, backbone_config, build, draw, images, trunk_config
from tests.support.paths import REFERENCE

LIMIT, CLASSES = 1e-8, 5
DEFAULTS = dict(
    width=32, depth=3, heads=2, grid=(4, 4), patch=8, memory=5, mode='prop', global_pool='token',
    mlp_ratio=2.0,
)  # fmt: skip

CASES = {
    'prop': dict(),
    'standard': dict(mode='standard'),
    'prop, averaged': dict(global_pool='avg'),
    'standard, averaged': dict(mode='standard', global_pool='avg'),
    'one token': dict(memory=1),
    'more tokens than patches': dict(memory=9, grid=(2, 2), mode='standard'),
    'one block': dict(depth=1, mode='standard'),
    'deep and narrow': dict(depth=7, width=16, heads=4, mode='standard'),
    'wide image and large patches': dict(grid=(2, 5), patch=16, global_pool='avg'),
}


def make_pair(case: Mapping, **options) -> tuple[nn.Module, LiteralMemoryTokens]:
    """Build product and literal with the same float64 weights."""
    c = {**DEFAULTS, **case}
    official = draw(
        memory_tokens_shapes(
            c['width'], c['depth'], c['grid'], c['patch'], CLASSES, c['memory'], c['mode'],
            c['global_pool'], c['mlp_ratio'],
        ),
        seed=3,
    )  # fmt: skip
    trunk, delta = split_memory_tokens(official)
    model = build(classifier(c, trunk, **options), seed=None)
    model.load_state_dict({**model.state_dict(), **delta}, strict=True)
    literal = LiteralMemoryTokens(
        official, MemoryTokensOptions(c['heads'], c['mode'], c['global_pool'])
    )
    return model.double(), literal.double()


def classifier(c: Mapping, weights: Mapping[str, Tensor], **options) -> dict:
    """Config of the classifier of a case."""
    arch_options = dict(
        embed_dim=c['width'], depth=c['depth'], num_heads=c['heads'], patch_size=c['patch'],
        img_size=tuple(n * c['patch'] for n in c['grid']), mlp_ratio=c['mlp_ratio'],
        global_pool=c['global_pool'], weight_init='skip',
    )  # fmt: skip
    tuner = dict(
        type='hstpeft.MemoryTokensTuner', mode=c['mode'], num_memory_tokens=c['memory'], **options
    )
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='hstpeft.TunedBackbone',
            trunk=dict(
                type='hstpeft.ViTTrunk', arch=ARCH, arch_options=arch_options, weights=weights
            ),
            tuner=tuner,
            out_type='cls_token' if c['global_pool'] == 'token' else 'avg_featmap',
        ),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=c['width']),
    )


def case_images(case: Mapping) -> Tensor:
    c = {**DEFAULTS, **case}
    return images(3, 3, *(n * c['patch'] for n in c['grid'])).double()


def run(model: nn.Module, image: Tensor) -> tuple[list[Tensor], Tensor]:
    """Run the product; outputs as of the literal form, and the logits."""
    backbone = model.backbone
    tokens, grid = backbone.trunk.embed(image)
    taps = backbone.tuner.run(backbone.trunk, tokens, grid, range(backbone.trunk.num_layers))
    last = backbone.trunk.final_norm(taps[backbone.trunk.num_layers - 1])
    vector = last[:, 0] if backbone.out_type == 'cls_token' else backbone.trunk.pool(last)
    return [*taps.values(), last], model.head((vector,))


@pytest.mark.parametrize('name', CASES)
def test_forward_and_gradients_equal_the_equations(name):
    model, literal = make_pair(CASES[name])
    image, labels, results = case_images(CASES[name]), torch.tensor([0, 3, 4]), []
    for forward in (literal, lambda x: run(model, x)):
        outputs, logits = forward(image)
        loss = nn.functional.cross_entropy(logits, labels) + sum(x.square().mean() for x in outputs)
        loss.backward()
        results.append([*outputs, logits])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=LIMIT)
    torch.testing.assert_close(model(image, mode='tensor'), results[0][-1], rtol=0, atol=LIMIT)
    official = {own: key for key, own in memory_token_names(len(results[0]) - 1).items()}
    for own, parameter in model.named_parameters():
        name = official.get(own, own.removeprefix(TRUNK))
        expected = getattr(literal, literal.names[name])
        assert parameter.requires_grad == is_trainable(name), name
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected.grad, rtol=0, atol=LIMIT, msg=name)


@pytest.mark.parametrize('case', ['memory_tokens_prop_eval', 'memory_tokens_standard_eval'])
def test_the_equations_themselves_equal_the_official_code(case):
    meta = json.loads((REFERENCE / 'hma' / f'{case}.json').read_text())
    official = draw({key: shape for key, shape, _ in meta['parameters']}, meta['seed'])
    trained = {key: trainable for key, _, trainable in meta['parameters']}
    assert {key: is_trainable(key) for key in trained} == trained
    arguments = meta['arguments']
    options = MemoryTokensOptions(arguments['heads'], arguments['mem_type'])
    literal = LiteralMemoryTokens(official, options).double()
    outputs, logits = literal(images(*meta['inputs']['input'], seed=meta['seed']).double())
    arrays = np.load(REFERENCE / 'hma' / f'{case}.npz')
    assert np.abs(logits.detach().numpy() - arrays['logits_float64']).max() < 1e-12
    for name, place in {'block0': 0, 'tokens': -1}.items():
        assert np.abs(outputs[place].detach().numpy() - arrays[name]).max() < 1e-5


@pytest.mark.parametrize('mode, count', [('prop', 1), ('standard', 3)])
def test_tokens_start_small_and_random_and_are_tokens_for_the_optimiser(mode, count):
    model, _ = make_pair(dict(mode=mode))
    tuner = MemoryTokensTuner(mode, num_memory_tokens=64)
    tuner.attach(model.backbone.trunk)
    tokens = torch.stack([token.detach() for token in tuner.memory_tokens])
    assert tokens.shape == (count, 1, 64, 32)
    assert tokens.std().item() == pytest.approx(0.02, rel=0.1)
    assert tokens.mean().abs() < 2e-3
    assert {id(p) for p in tuner.token_parameters()} == {id(p) for p in tuner.parameters()}


@pytest.mark.parametrize('mode', ['prop', 'standard'])
def test_everything_that_is_trained_has_a_gradient_by_step_three(mode):
    model, _ = make_pair(dict(mode=mode))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert f'{TRUNK}cls_token' in trained
    optimizer = torch.optim.SGD(trained.values(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        logits = model(case_images({}), mode='tensor')
        nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
        optimizer.step()
    assert all(p.grad.any() for p in trained.values())


@pytest.mark.parametrize('train_cls_token', [True, False])
def test_the_delta_holds_the_tokens_the_head_and_the_class_token_if_it_is_trained(train_cls_token):
    model, _ = make_pair(dict(mode='standard'), train_cls_token=train_cls_token)
    tokens = {f'backbone.tuner.memory_tokens.{i}' for i in range(3)}
    head = {'head.fc.weight', 'head.fc.bias', 'backbone._extra_state'}
    cls_token = {f'{TRUNK}cls_token'} if train_cls_token else set()
    assert model.state_dict().keys() == tokens | head | cls_token


def test_counts_are_those_of_the_official_cases():
    for mode in ('prop', 'standard'):
        meta = json.loads((REFERENCE / 'hma' / f'memory_tokens_{mode}_eval.json').read_text())
        case = dict(width=64, heads=4, patch=16, mode=mode, mlp_ratio=4.0)
        model, _ = make_pair(case)
        sizes = [p.numel() for p in model.backbone.parameters() if p.requires_grad]
        assert sum(sizes) == meta['trainable_parameters'] - 10 * 65


@pytest.mark.parametrize('mode', ['prop', 'standard'])
def test_counts_at_full_size_are_the_official_ones(mode):
    counts = json.loads((REFERENCE / 'full_size_counts.json').read_text())['hma_memory_tokens']
    trunk = dict(
        type='hstpeft.ViTTrunk', arch='vit_base_patch32_224', arch_options=dict(weight_init='skip')
    )
    tuner = dict(type='hstpeft.MemoryTokensTuner', mode=mode)
    with torch.device('meta'):
        model = MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=dict(type='hstpeft.TunedBackbone', trunk=trunk, tuner=tuner),
                head=dict(type='LinearClsHead', num_classes=47, in_channels=768),
            )
        )
    expected = counts[f'vit_b32_{mode}_5_tokens_47_classes']
    tokens = sum(p.numel() for p in model.backbone.tuner.parameters())
    assert tokens == expected['memory_tokens']
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    assert sum(trained) == expected['trainable']


@pytest.mark.parametrize('mode', ['prop', 'standard'])
def test_maps_and_earlier_blocks_leave_the_memory_tokens_out(mode):
    model, _ = make_pair(dict(mode=mode))
    image = case_images({})
    config = classifier(
        {**DEFAULTS, 'mode': mode}, dict(model.backbone.trunk.vit.named_parameters())
    )
    config['backbone'].update(out_type='featmap', out_indices=[0, 2])
    dense = build(config, seed=None).double()
    identity = {k: v for k, v in dense.state_dict().items() if k.endswith('_extra_state')}
    dense.load_state_dict(model.state_dict() | identity)
    outputs, _ = run(model, image)
    first, last = dense.backbone(image)
    for got, tokens in ((first, outputs[0]), (last, outputs[-1])):
        assert got.equal(tokens[:, 1:17].transpose(1, 2).unflatten(2, (4, 4)))


def test_memory_tokens_cannot_be_merged():
    model, _ = make_pair({})
    with pytest.raises(UserError, match=r'MemoryTokensTuner cannot be merged.*export'):
        merge(model)


@pytest.mark.parametrize(
    'options, word',
    [
        (dict(mode='propagate'), "tuner.mode 'propagate' is unknown: did you mean 'prop'"),
        (dict(num_memory_tokens=0), 'tuner.num_memory_tokens 0 must be at least 1'),
    ],
)
def test_a_wrong_option_is_refused_by_name_and_value(options, word):
    with pytest.raises(UserError) as info:
        MemoryTokensTuner(**options)
    assert word in str(info.value)


@pytest.mark.parametrize('mode', ['prop', 'standard'])
def test_a_frozen_trunk_in_bfloat16_takes_the_trained_class_token(mode):
    tuner = dict(type='hstpeft.MemoryTokensTuner', mode=mode)
    image = images(2, 3, 32, 32)
    exact, half = (
        build(backbone_config(trunk_config(dtype=dtype), tuner)).eval()
        for dtype in ('float32', 'bfloat16')
    )
    (expected,), (got,) = exact(image), half(image)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, atol=0.1, rtol=0.1)
