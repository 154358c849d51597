"""Layers by role: which a family has, what stands on one, and what is refused by name."""

import pytest
from torch import nn

from hstpeft.errors import UserError
from hstpeft.models import ViTTrunk
from hstpeft.models.trunks.layers import BLOCK_LAYERS, OUTER_LAYERS, AdaptedLayer
from tests.support.families import FAMILIES, build_trunk, tuned
from tests.support.models import images

USUAL = ['norm1', 'qkv', 'proj', 'norm2', 'fc1', 'fc2']
OUTER = {
    'vit': ['patch', 'final_norm'],
    'eva': ['patch', 'final_norm'],
    'swin': ['patch', 'patch_norm', 'final_norm'],
    'hvt': ['patch', 'final_norm'],
}
OTHERS = {
    'norms of queries and keys': (
        dict(qk_norm=True), ['norm1', 'qkv', 'q_norm', 'k_norm', 'proj', 'norm2', 'fc1', 'fc2'],
    ),
    'norms inside attention and MLP': (
        dict(scale_attn_norm=True, scale_mlp_norm=True),
        ['norm1', 'qkv', 'attn_norm', 'proj', 'norm2', 'fc1', 'mlp_norm', 'fc2'],
    ),
}  # fmt: skip


class Doubled(nn.Module):
    def forward(self, output, given):
        return 2 * output


@pytest.mark.parametrize('family', FAMILIES)
def test_each_family_names_its_layers_in_the_order_in_which_they_run(family):
    trunk = build_trunk(family)
    assert trunk.layer_names(None) == OUTER[family]
    assert all(trunk.layer_names(index) == USUAL for index in range(trunk.num_layers))


@pytest.mark.parametrize('family', FAMILIES)
def test_every_linear_norm_and_convolution_has_a_role_but_the_patch_merging(family):
    trunk = build_trunk(family)
    kinds = (nn.Linear, nn.LayerNorm, nn.Conv2d)
    layers = {name for name, module in trunk.net.named_modules() if isinstance(module, kinds)}
    places = [(index, name) for index in (None, *range(trunk.num_layers))
              for name in trunk.layer_names(index)]  # fmt: skip
    named = {trunk.layer_path(index, name) for index, name in places}
    assert len(named) == len(places)
    merging = {name for name in layers if '.downsample.' in name}
    assert named == layers - merging and bool(merging) == (family == 'swin')
    assert all(trunk.layer(*place) is trunk.net.get_submodule(trunk.layer_path(*place))
               for place in places)  # fmt: skip


@pytest.mark.parametrize('other', OTHERS)
def test_layers_that_only_some_vits_have_are_named(other):
    options, names = OTHERS[other]
    assert build_trunk('vit', arch_options=options).layer_names(2) == names


def test_norms_outside_the_blocks_are_those_that_a_vit_has():
    averaged = build_trunk('vit', arch_options=dict(global_pool='avg'))
    assert averaged.layer_names(None) == ['patch', 'pool_norm']
    clip = build_trunk('vit', arch_options=dict(pre_norm=True))
    assert clip.layer_names(None) == ['patch', 'pre_norm', 'final_norm']


def test_an_mlp_of_gates_has_both_of_its_linears_named():
    trunk = ViTTrunk(
        'vit_giant_patch14_dinov2', dict(embed_dim=32, depth=1, num_heads=2, img_size=28)
    )
    assert trunk.layer_names(0) == USUAL
    width = trunk.layer(0, 'fc1').out_features
    assert trunk.layer(0, 'fc2').in_features == width // 2


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('index', [1, None])
def test_a_missing_role_is_refused_by_name_with_those_that_exist(family, index):
    trunk = build_trunk(family)
    missing = set(BLOCK_LAYERS if index == 1 else OUTER_LAYERS) - set(trunk.layer_names(index))
    assert missing
    where = 'in block 1' if index == 1 else 'outside its blocks'
    for name in missing:
        with pytest.raises(UserError) as info:
            trunk.layer(index, name)
        words = f'this trunk has no {name} {where}, it has {trunk.layer_names(index)} there'
        assert str(info.value).startswith(words)


@pytest.mark.parametrize('family', FAMILIES)
def test_what_does_not_run_has_no_layers(family):
    trunk = build_trunk(family)
    last = trunk.layer_names(None)[-1]
    trunk.stop_after(0, pools=True)
    assert last == 'final_norm' and last not in trunk.layer_names(None)


@pytest.mark.parametrize('family', FAMILIES)
def test_an_adapted_layer_gives_what_its_adapter_makes_of_it_and_shows_its_tensors(family):
    trunk, image = build_trunk(family), images(1, 3, 32, 32)
    layer = trunk.layer(1, 'fc1')
    kept = []
    layer.register_forward_hook(lambda m, args, out: kept.append(out))
    trunk.set_layer(1, 'fc1', AdaptedLayer(layer, Doubled()))
    adapted = trunk.layer(1, 'fc1')
    assert adapted.weight is layer.weight and adapted.bias is layer.bias
    seen = []
    adapted.register_forward_hook(lambda m, args, out: seen.append(out))
    trunk.net.forward_features(image)
    assert seen[0].equal(2 * kept[0])
    trunk.set_layer(1, 'fc1', layer)
    assert trunk.layer(1, 'fc1') is layer


def test_ssf_stands_on_every_layer_that_a_trunk_names():
    options = dict(qk_norm=True, scale_mlp_norm=True, pre_norm=True)
    backbone = tuned('vit', dict(type='hstpeft.SSFTuner'), trunk=dict(arch_options=options))
    for module in backbone.trunk.modules():
        for name, child in module.named_children():
            if isinstance(child, (nn.Linear, nn.LayerNorm, nn.Conv2d)):
                assert name == 'base_layer' and isinstance(module, AdaptedLayer)
    backbone(images(2, 3, 32, 32))[0].square().sum().backward()
    free = [p for p in backbone.parameters() if p.requires_grad]
    assert free and all(p.grad is not None and p.grad.any() for p in free)
