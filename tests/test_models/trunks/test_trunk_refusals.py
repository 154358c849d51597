"""A trunk that cannot work is refused at construction, with what is wrong and what to do."""

import pytest
import torch

from hstpeft.errors import UserError
from hstpeft.models import ViTTrunk
from tests.support.models import ARCH, VIT, vit_weights

SMALL = dict(depth=1, embed_dim=32, num_heads=2)


def refusal(*args, **kwargs) -> str:
    with pytest.raises(UserError) as error:
        ViTTrunk(*args, **kwargs)
    message = str(error.value)
    assert '\n' not in message
    return message


def test_missing_left_over_and_reshaped_tensors_are_all_listed():
    weights = vit_weights()
    del weights['blocks.1.norm1.bias'], weights['cls_token']
    weights['dist_token'] = torch.ones(1, 1, 32)
    weights['blocks.0.attn.proj.bias'] = torch.ones(7)
    message = refusal(ARCH, VIT, weights)
    assert 'missing: blocks.1.norm1.bias, cls_token' in message
    assert 'unexpected: dist_token' in message
    assert 'shape: blocks.0.attn.proj.bias (7,) instead of (32,)' in message


@pytest.mark.parametrize('shape', [(1, 17, 24), (1, 1, 32), (1, 14, 32)])
def test_a_position_embedding_that_fits_no_grid_is_refused(shape):
    message = refusal(ARCH, VIT, {**vit_weights(), 'pos_embed': torch.ones(shape)})
    assert 'pos_embed' in message or 'position embedding' in message


def test_a_trunk_of_another_depth_or_width_is_refused():
    assert 'unexpected: blocks.3' in refusal(ARCH, {**VIT, 'depth': 3}, vit_weights())
    assert 'shape' in refusal(ARCH, {**VIT, 'embed_dim': 64}, vit_weights())


@pytest.mark.parametrize(
    'arch, nearest',
    [('vit_tiny_patch16_223', 'vit_tiny_patch16_224'), ('deit_tny_patch16_224', 'deit_tiny')],
)
def test_an_unknown_arch_names_the_nearest(arch, nearest):
    message = refusal(arch)
    assert f"'{arch}'" in message and f"did you mean '{nearest}" in message


@pytest.mark.parametrize(
    'arch, instead',
    [
        ('swin_tiny_patch4_window7_224', "set trunk.type='hstpeft.SwinTrunk'"),
        ('eva02_tiny_patch14_224', "is Eva): set trunk.type='hstpeft.EvaTrunk'"),
        ('vit_small_patch16_dinov3', "is Eva): set trunk.type='hstpeft.EvaTrunk'"),
        ('beit_base_patch16_224', 'eva02_base_patch14_224'),
        ('samvit_base_patch16', 'window_size=14'),
        ('hiera_tiny_224', 'SwinTrunk'),
        ('naflexvit_base_patch16_gap', 'vit_base_patch16_siglip_256'),
        ('vit_relpos_base_patch16_224', 'vit_base_patch16_224'),
        ('resnet18', 'vit_base_patch16_224'),
    ],
)
def test_another_family_is_refused_by_name(arch, instead):
    message = refusal(arch)
    assert arch in message and 'not supported' in message and instead in message


def test_a_tag_in_the_arch_is_told_where_it_belongs():
    message = refusal('vit_base_patch16_224.mae')
    assert "arch='vit_base_patch16_224' and weights='mae'" in message


@pytest.mark.parametrize(
    'arch, options, reason',
    [
        ('vit_dwee_patch16_reg1_gap_256', {}, 'its attention is DiffAttention'),
        (ARCH, dict(patch_drop_rate=0.5), 'patch dropout'),
        ('vit_dpwee_patch16_reg1_gap_256', {}, 'blocks are'),
        ('deit_tiny_distilled_patch16_224', {}, 'VisionTransformerDistilled'),
    ],
)
def test_a_vit_that_the_block_loop_cannot_drive_is_refused(arch, options, reason):
    message = refusal(arch, {**SMALL, **options})
    assert arch in message and reason in message


@pytest.mark.parametrize('option', ['pretrained', 'num_classes', 'dynamic_img_size', 'block_fn'])
def test_options_that_the_trunk_owns_are_refused(option):
    assert option in refusal(ARCH, {option: True})


def test_a_misspelt_option_names_the_nearest():
    assert "did you mean 'embed_dim'" in refusal(ARCH, dict(embed_dims=32))


def test_an_option_value_that_timm_refuses_is_a_user_error():
    assert 'arch_options' in refusal(ARCH, dict(embed_dim=30, num_heads=4, depth=1))


def test_a_wrong_tag_names_the_nearest():
    message = refusal(ARCH, VIT, 'augreg_in22k')
    assert "'augreg_in22k'" in message and "did you mean 'augreg_in21k" in message


def test_a_wrong_dtype_is_named():
    message = refusal(ARCH, VIT, None, 'float16')
    assert "'float16'" in message and 'bfloat16' in message
