"""The block loop equals timm's class Eva in every variant, and knows where the patches are."""

import copy

import pytest
import torch
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from torch import nn

from hstpeft.delta import fingerprint
from hstpeft.models.trunks import Places, blocks
from tests.support.eva import (
    DINOV3,
    MIXED,
    QKVB,
    VARIANTS,
    options_of,
    run,
    timm_of,
    trunk_of,
    weights_of,
)
from tests.support.families import shake, tuned
from tests.support.models import MODELS, images


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
