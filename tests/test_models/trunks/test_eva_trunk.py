"""The block loop equals timm's class Eva in every variant, and knows where the patches are."""

import copy
import functools

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from torch import nn

from hstpeft.delta import fingerprint
from hstpeft.errors import UserError
from hstpeft.models import EvaTrunk, ViTTrunk
from hstpeft.models.trunks import Places, blocks
from tests.support.families import build_trunk, shake, tuned
from tests.support.models import ARCH, MODELS, VIT, draw, images, vit_weights

SMALL = dict(embed_dim=32, depth=3, num_heads=2)
FUSED = ['norm1', 'qkv', 'proj', 'norm2', 'fc1', 'fc2']
GATED = ['norm1', 'qkv', 'proj', 'norm2', 'fc1_g', 'fc1_x', 'fc2']
SPLIT = ['norm1', 'q', 'k', 'v', 'proj', 'norm2', 'fc1_g', 'fc1_x', 'mlp_norm', 'fc2']
SAPIENS = ['norm1', 'q', 'k', 'v', 'q_norm', 'k_norm', 'proj', 'norm2', 'fc1', 'fc2']
# By arch: options beside SMALL, and the layers of a block.
VARIANTS = {
    'vit_small_patch16_dinov3': ({}, FUSED),
    'vit_small_patch16_dinov3_qkvb': ({}, FUSED),
    'vit_small_plus_patch16_dinov3': ({}, GATED),
    'eva02_tiny_patch14_224': ({}, FUSED),
    'eva02_base_patch14_224': ({}, SPLIT),
    'eva02_base_patch16_clip_224': ({}, [*SPLIT[:4], 'attn_norm', *SPLIT[4:]]),
    'eva_giant_patch14_224': ({}, FUSED),
    'vit_pe_core_tiny_patch16_384': ({}, FUSED),
    'vit_pe_core_gigantic_patch14_448': ({}, FUSED),
    'vit_pe_spatial_tiny_patch16_512': ({}, FUSED),
    'vit_small_patch16_rope_mixed_224': ({}, FUSED),
    'vit_small_patch16_rope_mixed_ape_224': ({}, FUSED),
    'vit_base_patch16_rope_reg1_gap_256': ({}, FUSED),
    'vit_base_patch16_sapiens2': (dict(num_heads=4, num_kv_heads=(4, 2, 2)), SAPIENS),
}
DINOV3, QKVB = 'vit_small_patch16_dinov3', 'vit_small_patch16_dinov3_qkvb'
PE_CORE, MIXED = 'vit_pe_core_tiny_patch16_384', 'vit_small_patch16_rope_mixed_224'


def options_of(arch):
    side = 4 * int(arch.partition('_patch')[2][:2])
    return {**SMALL, **VARIANTS[arch][0], 'img_size': side}


@functools.cache
def weights_of(arch):
    net = timm.create_model(arch, num_classes=0, **options_of(arch))
    return draw({name: value.shape for name, value in net.state_dict().items()}, seed=1)


def timm_of(arch, tensors=None, **options):
    net = timm.create_model(
        arch, num_classes=0, **{**options_of(arch), 'dynamic_img_size': True, **options}
    )
    net.load_state_dict(tensors or weights_of(arch), strict=True)
    return net.eval()


def trunk_of(arch, **options):
    return EvaTrunk(arch, options_of(arch), weights_of(arch), **options).eval()


def run(trunk, image, places=None):
    """Outputs of all blocks, (B, L, C) each."""
    tokens, grid = trunk.embed(image)
    taps = trunk.run(tokens, places or Places(), range(trunk.num_layers), grid)
    return [taps[index] for index in range(trunk.num_layers)]


@pytest.mark.parametrize('grid', [(4, 4), (3, 5)])
@pytest.mark.parametrize('arch', VARIANTS)
@torch.no_grad()
def test_every_variant_equals_timm(arch, grid):
    trunk, net = trunk_of(arch), timm_of(arch)
    image = images(2, 3, *(side * trunk.patch_size[0] for side in grid))
    prefix = net.num_prefix_tokens > 0
    _, expected = net.forward_intermediates(image, output_fmt='NLC', return_prefix_tokens=prefix)
    outputs = run(trunk, image)
    for got, want in zip(outputs, expected, strict=True):
        want = torch.cat(want[::-1], dim=1) if prefix else want
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    final = trunk.final_norm(outputs[-1])
    if net.global_pool == 'map':
        keeping = trunk_of(arch, attn_pool=True)
        pooled = keeping.attention_pool(final)
    else:
        pooled = final[:, 0] if net.global_pool == 'token' else trunk.pool(final)
    want = net.forward_head(net.forward_features(image), pre_logits=True)
    torch.testing.assert_close(pooled, want, rtol=0, atol=1e-5)
    assert ('cls_token' in trunk.out_types) == (net.cls_token is not None)


@pytest.mark.parametrize('arch', VARIANTS)
def test_names_identity_and_layers_are_those_of_timms_files(arch):
    trunk, given = trunk_of(arch), weights_of(arch)
    kept = {name: value for name, value in given.items() if not name.startswith('attn_pool.')}
    tensors = trunk.timm_tensors()
    assert tensors.keys() == kept.keys()
    assert all(tensors[name].equal(value) for name, value in kept.items())
    assert trunk.identity == fingerprint(tensors) == fingerprint(kept)
    lost = {'global_pool': ''} if kept.keys() != given.keys() else {}
    assert trunk.timm_options() == lost
    timm_of(arch, tensors, **lost)
    assert trunk.layer_names(0) == VARIANTS[arch][1]


class Around(Places):
    """Keeps tokens in front of the patches and behind them, inside the blocks."""

    num_front_tokens = 2

    def __init__(self, added):
        self.added = added

    def after_embedding(self, tokens):
        start, added = tokens.shape[1] - 15, self.added.expand(len(tokens), -1, -1)
        return torch.cat([tokens[:, :start], added[:, :2], tokens[:, start:], added[:, 2:]], dim=1)


@pytest.mark.parametrize('window_size', [0, 2])
@pytest.mark.parametrize('arch', [DINOV3, MIXED, 'vit_base_patch16_sapiens2'])
@torch.no_grad()
def test_only_patches_are_rotated_by_their_place_in_the_image(arch, window_size):
    """Against dense attention over [all that is no patch, patches], each rotated by hand."""
    trunk = trunk_of(arch, window_size=window_size).double()
    image = images(2, 3, 48, 80).double()
    added = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0)).double()
    got = run(trunk, image, Around(added))[-1]
    tokens, grid = trunk.embed(image)
    x = torch.cat([added.expand(2, -1, -1), tokens], dim=1)
    first = x.shape[1] - 15
    rope = trunk.vit.rope.get_embed(shape=grid)
    cells = [divmod(index, 5) for index in range(15)]
    windows = [(r // window_size, c // window_size) if window_size else 0 for r, c in cells]
    windows = [None] * first + windows
    mask = torch.tensor([[None in (a, b) or a == b for b in windows] for a in windows])
    for index, block in enumerate(trunk.vit.blocks):
        q, k, v = blocks.project_qkv(block.attn, block.norm1(x))
        own = rope[index] if trunk.vit.rope_mixed else rope
        for part in (q, k):
            part[:, :, first:] = apply_rot_embed_cat(
                part[:, :, first:], own, half=block.attn.rotate_half
            )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = (
            x + block.gamma_1.mul(block.attn.proj(mixed.transpose(1, 2).flatten(2)))
            if (block.gamma_1 is not None)
            else x + block.attn.proj(mixed.transpose(1, 2).flatten(2))
        )
        branch = block.mlp(block.norm2(x))
        x = x + (branch if block.gamma_2 is None else block.gamma_2 * branch)
    prefix = trunk.num_prefix_tokens
    order = [*range(3, 3 + prefix), 0, 1, *range(first, first + 15), 2]
    torch.testing.assert_close(got, x[:, order], rtol=0, atol=1e-9)


def test_coordinates_are_augmented_in_training_alone():
    trunk = trunk_of('vit_base_patch16_sapiens2')
    image = images(1, 3, 64, 64)
    assert run(trunk, image)[-1].equal(run(trunk, image)[-1])
    trunk.train()
    assert not run(trunk, image)[-1].equal(run(trunk, image)[-1])


@pytest.mark.parametrize('arch', [QKVB, MIXED])
def test_bfloat16_holds_all_but_what_places_multiply(arch):
    exact, trunk = trunk_of(arch), trunk_of(arch, dtype='bfloat16')
    for parameter in trunk.parameters():
        parameter.requires_grad_(False)
    trunk.hold_frozen()
    held = {name: p.dtype for name, p in trunk.vit.named_parameters()}
    assert {n for n, d in held.items() if d != torch.bfloat16} == {'rope.freqs'} & held.keys()
    assert all(b.dtype == torch.float32 for b in trunk.vit.buffers())
    image = images(1, 3, 64, 64)
    got, want = run(trunk, image)[-1], run(exact, image)[-1]
    assert got.dtype == torch.bfloat16
    assert (got.float() - want).norm() < 0.05 * want.norm()


def test_copies_and_checkpointing_change_nothing():
    full, image = dict(type='hstpeft.FullTuner'), images(2, 3, 32, 32)
    plain, saving = (tuned('eva', full, with_cp=with_cp).train() for with_cp in (False, True))
    gradients = []
    for backbone in (plain, saving):
        backbone(image)[0].square().sum().backward()
        gradients.append([p.grad for p in backbone.parameters() if p.grad is not None])
    assert all(a.equal(b) for a, b in zip(*gradients, strict=True))
    expected = plain.eval()(image)[0]
    assert copy.deepcopy(plain)(image)[0].equal(expected)


@pytest.mark.slow
def test_a_compiled_forward_gives_the_same():
    backbone, image = tuned('eva', dict(type='hstpeft.SSFTuner')), images(2, 3, 32, 32)
    compiled = torch.compile(backbone, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(image)[0], backbone(image)[0])


def test_peft_on_the_qkv_of_a_model_with_separate_biases_is_heard():
    config = dict(type='hstpeft.EvaTrunk', arch=QKVB, arch_options=options_of(QKVB),
                  weights=weights_of(QKVB))  # fmt: skip
    config = dict(type='hstpeft.TunedBackbone', trunk=config, tuner=dict(type='hstpeft.LoRATuner'))
    backbone = MODELS.build(config).eval()
    image = images(1, 3, 64, 64)
    before = backbone(image)[0]
    assert (shake(backbone)(image)[0] - before).abs().max() > 1e-2


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
            'vit_small_patch16_dinov3',
            dict(embed_dim=36, num_heads=6),
            'embed_dim 36 is not divided among the 6 heads of vit_small_patch16_dinov3, whose rotary',
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
