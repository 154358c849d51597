"""SSF's parts: where the pairs stand, initial values, merging; BitFit, which merges as well."""

import math

import pytest
import torch
from torch import nn

from hstpeft.delta.merge import merge
from hstpeft.errors import UserError
from hstpeft.models import SelectiveTuner
from hstpeft.models.tuners import FrozenTuner
from tests.support.families import (
    FROZEN,
    build_trunk,
    each_family,
    shake,
    timm_model,
    trunk_config,
    tuned,
)
from tests.support.models import MODELS, images

SSF, BITFIT = dict(type='hstpeft.SSFTuner'), dict(type='hstpeft.SelectiveTuner')
NORMS = dict(type='hstpeft.SelectiveTuner', parts=['norms', 'biases'])
FULL = dict(type='hstpeft.FullTuner')
MERGED = {'ssf': SSF, 'bitfit': BITFIT, 'norms': NORMS}
BLOCK = ('norm1', 'attn.qkv', 'attn.proj', 'norm2', 'mlp.fc1', 'mlp.fc2')


def host(backbone: nn.Module) -> nn.Module:
    """Put a backbone into what `merge` expects of a host's model."""
    model = nn.Module()
    model.backbone = backbone
    return model


def in_dtype(family: str, tuner: dict, dtype: torch.dtype) -> tuple[nn.Module, torch.Tensor]:
    """Return a backbone that was moved away from where it starts, and images."""
    backbone = shake(tuned(family, tuner, out_type='raw')).to(dtype)
    return backbone, images(2, 3, 32, 32).to(dtype)


@each_family
def test_a_pair_stands_behind_every_layer_but_patch_merging(family):
    trunk = tuned(family, SSF).trunk
    blocks = [trunk.block_path(index) for index in range(trunk.num_layers)]
    wanted = {f'{block}.{layer}' for block in blocks for layer in BLOCK}
    wanted |= {'patch_embed.proj', 'norm'} | ({'patch_embed.norm'} if family == 'swin' else set())
    pairs = {name for name, _ in trunk.net.named_parameters() if '.adapter.' in f'.{name}'}
    assert pairs == {f'{layer}.adapter.{leaf}' for layer in wanted for leaf in ('scale', 'shift')}


@each_family
def test_scales_start_around_1_and_shifts_around_0_so_that_the_function_is_not_the_trunk_s(family):
    backbone = tuned(family, SSF, out_type='raw')
    free = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
    for leaf, mean in (('scale', 1), ('shift', 0)):
        values = torch.cat([p.detach() for name, p in free.items() if name.endswith(leaf)])
        error = 4 * 0.02 / math.sqrt(len(values))
        assert abs(values.mean() - mean) < error and abs(values.std() - 0.02) < error
    image = images(2, 3, 32, 32)
    change = backbone(image)[0] - tuned(family, FROZEN, out_type='raw')(image)[0]
    assert change.abs().max() > 1e-2


def test_the_pair_of_the_patches_acts_before_class_token_and_positions():
    backbone = shake(tuned('vit', SSF))
    trunk, image = backbone.trunk, images(2, 3, 32, 32)
    pair = trunk.layer(None, 'patch').adapter
    bare = build_trunk('vit')
    patches = bare.vit.patch_embed.proj(image).flatten(2).transpose(1, 2)
    patches = patches * pair.scale + pair.shift
    cls = bare.vit.cls_token.expand(2, -1, -1)
    expected = torch.cat([cls, patches], dim=1) + bare.vit.pos_embed
    torch.testing.assert_close(trunk.embed(image)[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ('dtype', 'limit'), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=['float32', 'float64']
)
@pytest.mark.parametrize('tuner', MERGED)
@each_family
def test_the_merged_model_gives_the_same_tokens(family, tuner, dtype, limit):
    backbone, image = in_dtype(family, MERGED[tuner], dtype)
    before = backbone(image)[0]
    _, merged = merge(host(backbone))
    assert type(merged.backbone.tuner) is FrozenTuner
    assert not [p for p in merged.backbone.parameters() if p.requires_grad]
    torch.testing.assert_close(merged.backbone(image)[0], before, rtol=0, atol=limit)
    assert backbone(image)[0].equal(before), 'the model itself was changed'


@pytest.mark.parametrize('tuner', MERGED)
@pytest.mark.parametrize('family', ['vit', 'swin'])
def test_timm_alone_loads_what_is_merged_and_runs_to_the_same_tokens(family, tuner):
    backbone, image = in_dtype(family, MERGED[tuner], torch.float32)
    tensors, _ = merge(host(backbone))
    net = timm_model(family, tensors)
    got = net.forward_features(image)
    torch.testing.assert_close(got, backbone(image)[0], rtol=0, atol=1e-5)
    assert (got - build_trunk(family).net.forward_features(image)).abs().max() > 0.1


def test_a_merged_hvt_has_the_names_of_its_trunk():
    backbone, _ = in_dtype('hvt', SSF, torch.float32)
    tensors, _ = merge(host(backbone))
    assert tensors.keys() == build_trunk('hvt').net.state_dict().keys()


@pytest.mark.parametrize('tuner', [*MERGED, 'full'])
@each_family
def test_what_a_merged_model_saves_is_that_of_a_frozen_merged_trunk(family, tuner):
    backbone, _ = in_dtype(family, MERGED.get(tuner, FULL), torch.float32)
    tensors, merged = merge(host(backbone))
    config = {**trunk_config(family), 'weights': tensors}
    config['arch_options'] = {**config['arch_options'], **merged.backbone.trunk.timm_options()}
    config = dict(type='hstpeft.TunedBackbone', trunk=config, tuner=FROZEN, out_type='raw')
    frozen = MODELS.build(config)
    frozen.load_state_dict(merged.backbone.state_dict(), strict=True)
    with pytest.raises(UserError, match='was made on the trunk'):
        tuned(family, FROZEN).load_state_dict(merged.backbone.state_dict())


def test_a_layer_that_gets_no_bias_from_timm_refuses_by_name_to_be_merged():
    backbone = shake(tuned('vit', SSF, trunk=dict(arch_options=dict(pre_norm=True))))
    assert backbone(images(1, 3, 32, 32))[0].isfinite().all()
    with pytest.raises(UserError, match=r'cannot be merged: patch of this trunk has no bias'):
        merge(host(backbone))


@pytest.mark.parametrize(
    ('parts', 'words'),
    [
        (['norm'], "tuner.parts 'norm' is unknown: did you mean 'norms'"),
        (['biases', 'biases'], 'each once'),
        ([], r'tuner.parts \(\) must name at least one'),
    ],
)
def test_wrong_parts_are_refused_by_name_and_value(parts, words):
    with pytest.raises(UserError, match=words):
        SelectiveTuner(parts)


def test_one_part_may_be_given_as_a_word():
    assert SelectiveTuner('norms').parts == ('norms',)


@each_family
def test_biases_are_all_biases_that_run_and_norms_have_both(family):
    for parts in (['biases'], ['norms'], ['norms', 'biases']):
        backbone = tuned(family, dict(type='hstpeft.SelectiveTuner', parts=parts))
        for name, parameter in backbone.named_parameters():
            layer, _, leaf = name.rpartition('.')
            is_norm = isinstance(backbone.get_submodule(layer), nn.LayerNorm)
            in_norms, in_biases = is_norm and 'norms' in parts, leaf == 'bias' and 'biases' in parts
            assert parameter.requires_grad == (in_norms or in_biases), name


def test_a_trunk_without_such_parts_is_refused():
    tuner, trunk = SelectiveTuner(['norms']), build_trunk('vit')
    trunk.stop_after(0, pools=False)
    for index in range(trunk.num_layers):
        for name in ('norm1', 'norm2'):
            trunk.set_layer(index, name, nn.Identity())
    with pytest.raises(UserError, match=r"tuner.parts \('norms',\): this trunk has none of them"):
        tuner.trunk_parameters(trunk)
