"""What an EvaTrunk reads and writes: biases after a merge, poolings, DINOv3's own files; its refusals."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from hstpeft.delta import fingerprint
from hstpeft.errors import UserError
from hstpeft.models import EvaTrunk, ViTTrunk
from tests.support.eva import (
    DINOV3,
    PE_CORE,
    QKVB,
    SMALL,
    options_of,
    run,
    timm_of,
    trunk_of,
    weights_of,
)
from tests.support.families import build_trunk, tuned
from tests.support.models import ARCH, MODELS, VIT, draw, images, vit_weights


@pytest.mark.parametrize('key_bias', [False, True])
@pytest.mark.parametrize('arch', [DINOV3, QKVB, 'eva02_base_patch14_224'])
@torch.no_grad()
def test_a_bias_that_a_merge_gave_goes_back_to_timm_with_its_options(arch, key_bias):
    trunk = trunk_of(arch)
    names = ['q', 'k', 'v'] if 'q' in trunk.layer_names(1) else ['qkv']
    for name in names:
        if trunk.layer(1, name).bias is None:
            trunk.give_bias(1, name)
    layer = trunk.layer(1, names[0] if len(names) == 1 or not key_bias else 'k')
    part = slice(0, 64) if key_bias else slice(0, 32)  # of qkv: the queries', or the keys' too
    layer.bias[part] += 0.5
    options = trunk.timm_options()
    had = arch != DINOV3
    assert options == (
        dict(attn_type='rope', qkv_bias=True) if key_bias else {} if had else dict(qkv_bias=True)
    )
    image = images(1, 3, *(4 * side for side in trunk.patch_size))
    net = timm_of(arch, trunk.timm_tensors(), **options)
    got = trunk.final_norm(run(trunk, image)[-1])
    torch.testing.assert_close(got, net.forward_features(image), rtol=0, atol=1e-5)
    again = EvaTrunk(arch, {**options_of(arch), **options}, trunk.timm_tensors()).eval()
    assert again.final_norm(run(again, image)[-1]).equal(got)


@torch.no_grad()
def test_a_vit_without_qkv_bias_can_be_given_one():
    trunk = ViTTrunk(ARCH, {**VIT, 'qkv_bias': False}, vit_weights(qkv_bias=False)).eval()
    trunk.give_bias(2, 'qkv')
    trunk.layer(2, 'qkv').bias += 0.5
    options = trunk.timm_options()
    assert options == dict(qkv_bias=True)
    net = timm.create_model(ARCH, num_classes=0, **{**VIT, **options}).eval()
    net.load_state_dict(trunk.timm_tensors(), strict=True)
    image = images(1, 3, 32, 32)
    assert trunk.final_norm(run(trunk, image)[-1]).equal(net.forward_features(image))


def test_attention_pooling_is_an_output_of_its_own(tmp_path):
    path = tmp_path / 'pe.safetensors'
    save_file(weights_of(PE_CORE), path)
    trunk = dict(type='hstpeft.EvaTrunk', arch=PE_CORE, arch_options=options_of(PE_CORE),
                 weights=str(path))  # fmt: skip
    tuner = dict(type='hstpeft.FrozenTuner')
    config = dict(type='hstpeft.TunedBackbone', trunk={**trunk, 'attn_pool': True}, tuner=tuner)
    image, net = images(2, 3, 64, 64), timm_of(PE_CORE)
    backbone = MODELS.build(config).eval()
    assert backbone.out_type == 'attn_pool'
    assert backbone.trunk.identity == fingerprint(weights_of(PE_CORE))
    torch.testing.assert_close(backbone(image)[0], net(image))
    held = MODELS.build({**config, 'trunk': {**config['trunk'], 'dtype': 'bfloat16'}}).eval()
    torch.testing.assert_close(held(image)[0], net(image), rtol=0.1, atol=0.1)
    token = MODELS.build({**config, 'out_type': 'cls_token'}).eval()
    assert token.trunk.vit.attn_pool in token.trunk.idle_modules()
    without = MODELS.build({**config, 'trunk': trunk}).eval()
    assert without.trunk.vit.attn_pool is None and without.out_type == 'cls_token'
    torch.testing.assert_close(without(image)[0], token(image)[0])
    with pytest.raises(UserError, match=r'trunk.attn_pool=True'):
        MODELS.build({**config, 'trunk': trunk, 'out_type': 'attn_pool'})
    with pytest.raises(UserError, match=r'has no attention pooling'):
        trunk_of(DINOV3, attn_pool=True)


def test_a_register_is_no_class_token():
    options = {**SMALL, 'img_size': 64}
    for trunk in (
        ViTTrunk('vit_medium_patch16_reg4_gap_256', options),
        EvaTrunk('vit_base_patch16_rope_reg1_gap_256', options),
    ):
        assert trunk.num_prefix_tokens > 0 and trunk.out_types[0] == 'avg_featmap'


@torch.no_grad()
def test_siglip_keeps_its_pooling_too():
    arch, options = 'vit_base_patch16_siglip_224', {**SMALL, 'img_size': 64}
    net = timm.create_model(arch, num_classes=0, **options).eval()
    tensors = draw({name: value.shape for name, value in net.state_dict().items()})
    net.load_state_dict(tensors)
    trunk, image = ViTTrunk(arch, options, tensors, attn_pool=True).eval(), images(2, 3, 64, 64)
    final = trunk.final_norm(run(trunk, image)[-1])
    torch.testing.assert_close(trunk.attention_pool(final), net(image))
    bare = ViTTrunk(arch, options, tensors)
    assert bare.out_types == ('avg_featmap', 'featmap', 'raw') and bare.identity != trunk.identity


def meta_style(tensors, has_bias):
    """Rename timm's tensors to those of Meta's DINOv3 files."""
    names = {
        'gamma_1': 'ls1.gamma', 'gamma_2': 'ls2.gamma', 'mlp.fc1_g': 'mlp.w1',
        'mlp.fc1_x': 'mlp.w2', 'reg_token': 'storage_tokens',
    }  # fmt: skip
    if 'blocks.0.mlp.fc1_g.weight' in tensors:
        names['mlp.fc2'] = 'mlp.w3'
    renamed = {'mask_token': torch.ones(1, 32), 'rope_embed.periods': torch.ones(4)}
    for name, value in tensors.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        renamed[name] = value
    for index in range(3):
        place = f'blocks.{index}.attn.'
        q, v = (renamed.pop(f'{place}{x}_bias', torch.zeros(32)) for x in 'qv')
        renamed[f'{place}qkv.bias'] = torch.cat([q, torch.full((32,), float(has_bias)), v])
        renamed[f'{place}qkv.bias_mask'] = torch.ones(96)
    return renamed


@pytest.mark.parametrize('arch', [DINOV3, QKVB, 'vit_small_plus_patch16_dinov3'])
def test_metas_own_files_give_the_same_identity(arch, tmp_path):
    given = weights_of(arch)
    torch.save(meta_style(given, arch == QKVB), tmp_path / 'dinov3.pth')
    trunk = EvaTrunk(arch, options_of(arch), str(tmp_path / 'dinov3.pth'))
    assert trunk.identity == fingerprint(given)
    assert trunk.mean == (0.485, 0.456, 0.406)


def test_another_form_of_the_positions_is_another_function():
    forms = [{}, dict(rope_temperature=50.0), dict(rope_grid_offset=0.5), dict(rope_type='cat')]
    identities = {
        tuned('eva', dict(type='hstpeft.SSFTuner'), dict(arch_options=form)).identity().function
        for form in forms
    }
    assert len(identities) == len(forms)
    assert 'rope' not in build_trunk('vit').description()


@pytest.mark.parametrize(
    'arch, options, words',
    [
        ('eva02_enormous_patch14_clip_224', dict(depth=1), 'its blocks are EvaBlockPostNorm'),
        (DINOV3, dict(patch_drop_rate=0.5), 'patch dropout'),
        (DINOV3, dict(rope_type='mrope'), 'RotaryEmbeddingMRope'),
        (DINOV3, dict(embed_dims=32), "did you mean 'embed_dim'"),
        (DINOV3, dict(img_size=50), 'not made of whole patches'),
        ('vit_base_patch16_224', {}, "VisionTransformer): set trunk.type='hstpeft.ViTTrunk'"),
        ('beit_base_patch16_224', {}, 'eva02_base_patch14_224'),
        ('vit_smal_patch16_dinov3', {}, "did you mean 'vit_small_patch16_dinov3"),
        ('vit_small_patch16_dinov3.lvd1689m', {}, "weights='lvd1689m'"),
        (
            DINOV3,
            dict(embed_dim=36, num_heads=6),
            f'embed_dim 36 is not divided among the 6 heads of {DINOV3}, whose rotary',
        ),
        (
            'eva02_tiny_patch14_224',
            dict(embed_dim=32, num_heads=3, use_rot_pos_emb=False),
            'eva02_tiny_patch14_224: set embed_dim to a multiple of 3',
        ),
    ],
)
def test_what_cannot_be_driven_is_refused_by_name(arch, options, words):
    with pytest.raises(UserError) as info:
        EvaTrunk(arch, options)
    message = str(info.value)
    assert words in message and '\n' not in message


def test_weights_that_do_not_fit_are_listed_by_timms_names():
    tensors = dict(weights_of(QKVB))
    del tensors['blocks.1.attn.q_bias']
    with pytest.raises(UserError, match=r'missing: blocks\.1\.attn\.q_bias'):
        EvaTrunk(QKVB, options_of(QKVB), tensors)
    with pytest.raises(UserError, match=r'unexpected: blocks\.0\.attn\.q_bias'):
        EvaTrunk(DINOV3, options_of(DINOV3), weights_of(QKVB))
