"""LoRA: the equation, where peft's layers are, what the delta holds, merging, wrong options."""

import copy
import sys

import pytest
import timm
import torch
from mmpretrain.registry import MODELS
from torch import nn
from torch.func import functional_call

from hstpeft.delta.merge import merge
from hstpeft.errors import UserError
from hstpeft.models.trunks.frozen_linear import FrozenLinear
from hstpeft.models.tuners import FrozenTuner
from hstpeft.models.tuners.lora import LINEARS, LoRATuner
from tests.support import models
from tests.support.models import ARCH, VIT, build, images

SWIN_ARCH = 'swin_tiny_patch4_window7_224'
SWIN = dict(img_size=16, patch_size=2, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4)
ALL = tuple(LINEARS)
RANK, ALPHA = 3, 1.5
TRUNKS = ('vit', 'swin')

each_trunk = pytest.mark.parametrize('family', TRUNKS)


def trunk_config(family, seed=3, dtype='float32', **options):
    """Config of a tiny trunk whose weights are drawn, and so pre-trained."""
    if family == 'vit':
        weights = models.vit_weights(seed=seed, **options)
        return models.trunk_config(weights, dtype=dtype, **options)
    config = dict(type='hstpeft.SwinTrunk', arch=SWIN_ARCH, arch_options={**SWIN, **options})
    shapes = {name: p.shape for name, p in MODELS.build(config).net.named_parameters()}
    return dict(config, weights=models.draw(shapes, seed), dtype=dtype)


def backbone(family, tuner=None, out_indices=None, **options):
    """Build a tiny backbone with LoRA as a user gets it."""
    own = dict(type='hstpeft.LoRATuner', positions=ALL, rank=RANK, alpha=ALPHA)
    tuner = {**own, **(tuner or {})}
    trunk = trunk_config(family, **options)
    config = models.backbone_config(trunk, tuner, out_type='raw', out_indices=out_indices)
    return build(config, seed=None)


def drawn(family, tuner=None, **options):
    """The same with non-zero products."""
    model = backbone(family, tuner, **options)
    models.redraw(model, seed=1)
    return model


def bare(family, **options):
    """Build the same trunk without a tuner."""
    frozen = dict(type='hstpeft.FrozenTuner')
    trunk = trunk_config(family, **options)
    return build(models.backbone_config(trunk, frozen, out_type='raw'), seed=None)


def image_of(family):
    return images(2, 3, 32, 40) if family == 'vit' else images(2, 3, 16, 32)


def adapted_layers(model):
    """Names of peft's layers inside the trunk's net."""
    return {n: m for n, m in model.trunk.net.named_modules() if hasattr(m, 'lora_A')}


@each_trunk
def test_outputs_and_gradients_are_those_of_the_equation(family):
    model, plain = drawn(family).double(), bare(family).double()
    image = image_of(family).double().requires_grad_()
    layers = adapted_layers(model)
    factors, weights = {}, {}
    for name, layer in layers.items():
        a, b = (f['default'].weight.detach().clone() for f in (layer.lora_A, layer.lora_B))
        factors[name] = a.requires_grad_(), b.requires_grad_()
        frozen = plain.trunk.net.get_submodule(name).weight
        prefix = 'trunk.vit' if family == 'vit' else 'trunk.swin'
        weights[f'{prefix}.{name}.weight'] = frozen + ALPHA / RANK * b @ a
    (expected,) = functional_call(plain, weights, (image,))
    (output,) = model(image)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-8)
    wanted = [image, *(factor for pair in factors.values() for factor in pair)]
    own = [image]
    for layer in layers.values():
        own += [layer.lora_A['default'].weight, layer.lora_B['default'].weight]
    got = torch.autograd.grad(output.square().mean(), own)
    for value, other in zip(
        got, torch.autograd.grad(expected.square().mean(), wanted), strict=True
    ):
        assert other.abs().max() > 1e-6
        torch.testing.assert_close(value, other, rtol=0, atol=1e-8)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@each_trunk
def test_training_starts_from_the_very_function_of_the_trunk(family, dtype):
    image = image_of(family)
    model, plain = backbone(family, dtype=dtype), bare(family, dtype=dtype)
    assert model(image)[0].equal(plain(image)[0])
    models.redraw(model, seed=1)
    assert not model(image)[0].equal(plain(image)[0])


@each_trunk
def test_everything_that_is_trained_has_a_gradient_by_step_three(family):
    model = backbone(family).train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    moved = []
    for _ in range(3):
        optimizer.zero_grad()
        model(image_of(family))[0].square().mean().backward()
        moved.append({name for name, p in trained.items() if p.grad.any()})
        optimizer.step()
    assert moved[0] == {name for name in trained if '.lora_B.' in name}, 'B is zero at first'
    assert moved[2] == trained.keys()


def test_only_the_linears_of_blocks_that_run_are_wrapped_and_keep_their_fast_path():
    model = backbone('vit', depth=8, out_indices=(5,))
    names = {
        f'blocks.{index}.{linear}'
        for index in range(6)
        for linear in ('attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2')
    }
    layers = adapted_layers(model)
    assert layers.keys() == names, 'peft shortens lists of 20 names and more'
    for layer in layers.values():
        assert type(layer.base_layer) is FrozenLinear
        assert not any(p.requires_grad for p in layer.base_layer.parameters())
    few = backbone('vit', tuner=dict(positions=('proj', 'fc2')), depth=2)
    assert adapted_layers(few).keys() == {
        'blocks.0.attn.proj', 'blocks.0.mlp.fc2', 'blocks.1.attn.proj', 'blocks.1.mlp.fc2',
    }  # fmt: skip


def test_only_the_stages_of_a_swin_that_run_are_wrapped():
    layers = adapted_layers(backbone('swin', tuner=dict(positions='qkv'), out_indices=(0,)))
    assert layers.keys() == {'layers.0.blocks.0.attn.qkv', 'layers.0.blocks.1.attn.qkv'}


@each_trunk
def test_the_state_dict_is_the_delta_and_a_round_trip_is_exact(family):
    model, image = drawn(family), image_of(family)
    prefix = 'trunk.vit' if family == 'vit' else 'trunk.swin'
    own = {
        f'{prefix}.{name}.{factor}.default.weight'
        for name in adapted_layers(model)
        for factor in ('lora_A', 'lora_B')
    }
    assert own == {name for name, p in model.named_parameters() if p.requires_grad}
    assert model.state_dict().keys() == own | {'_extra_state'}
    other = backbone(family)
    other.load_state_dict(copy.deepcopy(model.state_dict()), strict=True)
    assert other(image)[0].equal(model(image)[0])


def test_a_deep_copy_is_independent_and_saves_the_same_keys():
    model, image = drawn('vit'), image_of('vit')
    before = model(image)[0]
    twin = copy.deepcopy(model).requires_grad_(False)  # as EMA does
    assert twin(image)[0].equal(before)
    assert twin.state_dict().keys() == model.state_dict().keys()
    models.redraw(twin.requires_grad_(True), seed=2)
    assert not twin(image)[0].equal(before)
    assert model(image)[0].equal(before)


@pytest.mark.parametrize(
    'options, word',
    [
        (dict(seed=4), 'was made on the trunk'),
        (dict(tuner=dict(alpha=3.0)), r'LoRATuner \(alpha=1.5\), the model has .*\(alpha=3\)'),
        (dict(tuner=dict(rank=2)), r'shape: trunk\.vit\.blocks\.0\.attn\.proj\.lora_A\.default'),
        (dict(tuner=dict(positions='qkv')), r'unexpected: .*attn\.proj\.lora_A'),
    ],
)
def test_a_delta_of_another_function_is_refused(options, word):
    state = drawn('vit').state_dict()
    model = backbone('vit', **options)
    before = models.snapshot(model)
    with pytest.raises(UserError, match=word):
        model.load_state_dict(state)
    assert not models.changed(model, before)


def test_a_trunk_without_weights_is_saved_whole():
    tuner = dict(type='hstpeft.LoRATuner')
    model = build(models.backbone_config(models.trunk_config(None), tuner), seed=None)
    other = build(models.backbone_config(models.trunk_config(None), tuner), seed=None)
    other.load_state_dict(model.state_dict())
    assert other(image_of('vit'))[0].equal(model(image_of('vit'))[0])


class Host(nn.Module):
    """What `merge` needs of a host's model."""

    def __init__(self, model):
        super().__init__()
        self.backbone = model


@each_trunk
def test_the_merged_model_is_the_bare_trunk_and_gives_the_same_outputs(family):
    model, image = drawn(family).double().eval(), image_of(family).double()
    before = model(image)[0]
    trunk, merged = merge(Host(model))
    torch.testing.assert_close(merged.backbone(image)[0], before, rtol=0, atol=1e-10)
    assert model(image)[0].equal(before), 'the model itself was changed'
    assert type(merged.backbone.tuner) is FrozenTuner
    plain = bare(family)
    modules = {name: type(module) for name, module in plain.trunk.net.named_modules()}
    assert modules == {n: type(m) for n, m in merged.backbone.trunk.net.named_modules()}
    assert trunk.keys() == dict(plain.trunk.net.named_parameters()).keys()
    assert not hasattr(merged.backbone.trunk.net, 'peft_config')
    plain.double().trunk.net.load_state_dict(trunk)
    torch.testing.assert_close(plain(image)[0], before, rtol=0, atol=1e-10)


def test_what_a_merged_model_saves_loads_on_the_merged_trunk_only():
    trunk, merged = merge(Host(drawn('vit')))
    frozen = dict(type='hstpeft.FrozenTuner')
    config = models.backbone_config(models.trunk_config(trunk), frozen, out_type='raw')
    other = build(config, seed=None)
    other.load_state_dict(merged.backbone.state_dict())
    assert other.state_dict().keys() == {'_extra_state'}
    assert other(image_of('vit'))[0].equal(merged.backbone(image_of('vit'))[0])
    with pytest.raises(UserError, match='was made on the trunk'):
        bare('vit').load_state_dict(merged.backbone.state_dict())


def test_timm_alone_runs_a_merged_trunk():
    model = drawn('vit').eval()
    trunk, _ = merge(Host(model))
    vit = timm.create_model(ARCH, num_classes=0, **VIT)
    vit.load_state_dict(trunk)
    image = images(2, 3, 32, 32)
    expected = vit.eval().forward_features(image)
    torch.testing.assert_close(model(image)[0], expected, rtol=0, atol=1e-5)


def test_merging_what_does_not_run_leaves_it_alone():
    model = drawn('vit', tuner=dict(positions='qkv'), out_indices=(1,))
    trunk, merged = merge(Host(model))
    image = image_of('vit')
    torch.testing.assert_close(merged.backbone(image)[0], model(image)[0], rtol=0, atol=1e-5)
    moved = {
        name for name, p in bare('vit').trunk.net.named_parameters() if not p.equal(trunk[name])
    }
    assert moved == {f'blocks.{index}.attn.qkv.weight' for index in (0, 1)}


@each_trunk
def test_a_trunk_in_bfloat16_keeps_the_products_in_single_precision_and_merges(family):
    half, model = drawn(family, dtype='bfloat16'), drawn(family)
    image = image_of(family)
    layers = adapted_layers(half)
    assert {layer.base_layer.weight.dtype for layer in layers.values()} == {torch.bfloat16}
    got, expected = half(image)[0], model(image)[0]
    assert got.dtype == torch.float32
    assert (got - expected).norm() < 0.02 * expected.norm()
    got.square().mean().backward()
    for layer in layers.values():
        for factor in (layer.lora_A, layer.lora_B):
            assert factor['default'].weight.dtype == torch.float32
            assert factor['default'].weight.grad.isfinite().all()
    trunk, merged = merge(Host(half))
    assert {tensor.dtype for tensor in trunk.values()} == {torch.bfloat16}
    assert (merged.backbone(image)[0] - expected).norm() < 0.02 * expected.norm()


@each_trunk
def test_queries_and_values_alone_have_products_of_their_own(family):
    tuner = dict(positions=('q', 'v', 'fc1'))
    plain, model = bare(family).double(), backbone(family, tuner).double()
    image = image_of(family).double()
    assert model(image)[0].equal(plain(image)[0]), 'B is zero at first'
    models.redraw(model, seed=1)
    weights, prefix = {}, 'trunk.vit' if family == 'vit' else 'trunk.swin'
    for name, layer in model.trunk.net.named_modules():
        if name.endswith('attn.qkv'):
            products = {
                third: ALPHA
                / RANK
                * layer.adapter.get_submodule(third).lora_B
                @ layer.adapter.get_submodule(third).lora_A
                for third in ('q', 'v')
            }
            rows = [products['q'], torch.zeros_like(products['q']), products['v']]
            weights[f'{prefix}.{name}.weight'] = layer.base_layer.weight + torch.cat(rows)
        elif name.endswith('mlp.fc1'):
            b, a = layer.lora_B['default'].weight, layer.lora_A['default'].weight
            weights[f'{prefix}.{name}.weight'] = layer.base_layer.weight + ALPHA / RANK * b @ a
    assert len(weights) == 2 * model.trunk.num_layers
    (expected,) = functional_call(plain, weights, (image,))
    output = model(image)[0]
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-8)
    trunk, merged = merge(Host(model))
    torch.testing.assert_close(merged.backbone(image)[0], output, rtol=0, atol=1e-10)
    assert trunk.keys() == dict(plain.trunk.net.named_parameters()).keys()
    other = backbone(family, tuner).double()
    other.load_state_dict(model.state_dict())
    assert other(image)[0].equal(output)
    qkv = [n for n in model.state_dict() if n.startswith(f'{prefix}.') and '.attn.qkv.' in n]
    assert {n.rpartition('attn.qkv.')[2] for n in qkv} == {
        f'adapter.{third}.lora_{factor}' for third in ('q', 'v') for factor in ('A', 'B')
    }


def test_thirds_of_a_trunk_in_bfloat16_stay_in_single_precision():
    half, model = (drawn('vit', dict(positions=['k']), dtype=d) for d in ('bfloat16', 'float32'))
    got, expected = half(image_of('vit'))[0], model(image_of('vit'))[0]
    assert {p.dtype for p in half.parameters() if p.requires_grad} == {torch.float32}
    assert (got - expected).norm() < 0.02 * expected.norm()
    _, merged = merge(Host(half))
    assert (merged.backbone(image_of('vit'))[0] - expected).norm() < 0.02 * expected.norm()


def test_the_linears_of_a_swiglu_are_positions():
    options = dict(embed_dim=32, depth=2, num_heads=2, img_size=28)
    trunk = dict(type='hstpeft.ViTTrunk', arch='aimv2_large_patch14_224', arch_options=options)
    tuner = dict(type='hstpeft.LoRATuner', positions=['fc1_g', 'fc1_x'])
    model = build(models.backbone_config(trunk, tuner), seed=None)
    names = {f'blocks.{i}.mlp.{n}' for i in (0, 1) for n in ('fc1_g', 'fc1_x')}
    assert adapted_layers(model).keys() == names


def test_dropout_acts_in_training_only():
    model, dropping = drawn('vit'), drawn('vit', tuner=dict(drop_rate=0.5))
    image = image_of('vit')
    expected = model.eval()(image)[0]
    assert dropping.eval()(image)[0].equal(expected)
    assert not dropping.train()(image)[0].equal(expected)
    assert model.train()(image)[0].equal(expected)
    assert {m.p for m in dropping.modules() if isinstance(m, nn.Dropout) and m.p} == {0.5}


def test_count_at_full_size():
    trunk = dict(
        type='hstpeft.ViTTrunk', arch='vit_base_patch16_224', arch_options=dict(weight_init='skip')
    )
    tuner = dict(type='hstpeft.LoRATuner')
    with torch.device('meta'):
        model = MODELS.build(models.backbone_config(trunk, tuner))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 12 * (8 * 768 + 3 * 768 * 8) == 294_912


@pytest.mark.parametrize(
    'options, word',
    [
        (dict(positions=['qvk']), "tuner.positions 'qvk' is unknown: did you mean 'qkv'?"),
        (dict(positions=['attn.qkv']), "tuner.positions 'attn.qkv' is unknown"),
        (dict(positions=['qkv', 'qkv']), 'each once'),
        (dict(positions=['qkv', 'v']), 'name queries, keys or values twice'),
        (dict(positions=[]), 'at least one of'),
        (dict(rank=0), 'tuner.rank 0 must be at least 1'),
        (dict(alpha=0), 'tuner.alpha 0 must be above 0'),
        (dict(drop_rate=1.0), 'tuner.drop_rate 1.0 must be from 0 to below 1'),
        (dict(drop_rate=-0.1), 'tuner.drop_rate -0.1'),
    ],
)
def test_a_wrong_option_is_refused_by_name_and_value(options, word):
    with pytest.raises(UserError) as info:
        LoRATuner(**options)
    assert word in str(info.value)


def test_one_position_may_be_given_as_a_word():
    assert LoRATuner('proj').positions == ('proj',)


def test_a_position_that_the_blocks_lack_is_refused():
    options = dict(embed_dim=32, depth=2, num_heads=2, img_size=28)
    trunk = dict(type='hstpeft.ViTTrunk', arch='aimv2_large_patch14_224', arch_options=options)
    tuner = dict(type='hstpeft.LoRATuner', positions=['qkv', 'fc1'])
    words = r"\('qkv', 'fc1'\): this trunk has no fc1 in block 0, .*: use fc1_g, fc1_x instead"
    with pytest.raises(UserError, match=words):
        build(models.backbone_config(trunk, tuner), seed=None)


def test_without_peft_the_message_has_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'peft', None)
    with pytest.raises(UserError, match=r'LoRATuner needs HF peft .*pip install peft==0\.21\.2'):
        backbone('vit')
