"""Another value of an option of timm's either shows in a delta's identity, or changes no output.

A trunk's weights and its description say who a delta belongs to. So every option of timm's classes is
refused, or changes the tensors, or is described, or has no effect on what is computed in eval mode. An
option that a new timm brings needs an entry here.
"""

import inspect
from typing import Any, NamedTuple

import pytest
import torch
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from hstpeft.delta.identity import hash_description
from hstpeft.errors import UserError
from hstpeft.models.trunks import Places
from tests.support.models import MODELS, images

REFUSED, TENSORS, DESCRIBED, SAME = 'refused', 'tensors', 'described', 'same'


class Change(NamedTuple):
    """Another value of an option, what it does, and options of both trunks that let it do so."""

    value: Any
    effect: str
    beside: dict[str, Any] = {}


def refused(*names: str) -> dict[str, list[Change]]:
    """Options that no trunk takes, whatever the value."""
    return {name: [Change(True, REFUSED)] for name in names}


def dropouts(*names: str) -> dict[str, list[Change]]:
    """Options that act in training alone."""
    return {name: [Change(0.5, SAME)] for name in names}


COMMON = {
    **refused('num_classes', 'drop_rate', 'dynamic_img_size', 'device', 'dtype'),
    **dropouts('proj_drop_rate', 'attn_drop_rate', 'drop_path_rate'),
    'patch_size': [Change(16, TENSORS)],
    'in_chans': [Change(1, TENSORS)],
    'mlp_ratio': [Change(2.0, TENSORS)],
    'qkv_bias': [Change(False, TENSORS)],
    'norm_layer': [Change(torch.nn.RMSNorm, TENSORS)],
}
PLAIN = {
    **COMMON,
    **refused('dynamic_img_pad'),
    **dropouts('pos_drop_rate'),
    'img_size': [Change(64, TENSORS), Change((16, 64), DESCRIBED)],
    'embed_dim': [Change(64, TENSORS)],
    'depth': [Change(1, TENSORS)],
    'num_heads': [Change(4, DESCRIBED)],
    'qk_norm': [Change(True, TENSORS)],
    'init_values': [Change(0.1, TENSORS)],
    'class_token': [Change(False, TENSORS, dict(global_pool='avg'))],
    'no_embed_class': [Change(True, TENSORS)],
    'patch_drop_rate': [Change(0.5, REFUSED)],
}
OPTIONS = {
    'ViTTrunk': {
        **PLAIN,
        **refused('embed_layer', 'block_fn', 'mlp_layer'),
        # timm's own pooling alone, but for what brings a module.
        'global_pool': [
            Change('', SAME), Change('avg', TENSORS), Change('map', TENSORS),
            Change('max', SAME, dict(global_pool='avg')),
        ],
        'pool_include_prefix': [Change(True, SAME), Change(True, DESCRIBED, dict(global_pool='map'))],
        'reg_tokens': [Change(1, TENSORS)],
        'scale_attn_norm': [Change(True, TENSORS)],
        'scale_mlp_norm': [Change(True, TENSORS)],
        'proj_bias': [Change(False, TENSORS)],
        'pos_embed': [Change('none', TENSORS)],
        'pre_norm': [Change(True, TENSORS)],
        'final_norm': [Change(False, TENSORS)],
        'fc_norm': [Change(True, TENSORS)],
        'embed_norm_layer': [
            Change('layernorm', TENSORS),
            Change('simplenorm', DESCRIBED, dict(embed_norm_layer='rmsnorm')),
        ],
        'norm_layer': [
            Change('rmsnorm', TENSORS),
            Change('simplenorm', DESCRIBED, dict(norm_layer='rmsnorm')),
        ],
        'act_layer': [Change('relu', DESCRIBED), Change('gelu_tanh', DESCRIBED)],
        'attn_layer': [Change('diff', REFUSED)],
        'weight_init': [Change('jax', SAME)],
        'fix_init': [Change(True, SAME)],
    },
    'EvaTrunk': {
        **PLAIN,
        **refused('head_init_scale'),
        **dropouts('rope_shift_coords'),
        'rope_jitter_coords': [Change(2.0, SAME)],
        'rope_rescale_coords': [Change(2.0, SAME)],
        'global_pool': [Change('token', TENSORS), Change('map', TENSORS), Change('max', TENSORS)],
        'num_kv_heads': [Change(1, TENSORS, dict(attn_type='rope', qkv_fused=False))],
        'qkv_fused': [Change(False, TENSORS)],
        'swiglu_mlp': [Change(False, TENSORS)],
        'swiglu_align_to': [Change(48, TENSORS, dict(swiglu_mlp=True))],
        'scale_mlp': [Change(True, TENSORS)],
        'scale_attn_inner': [Change(True, TENSORS)],
        'attn_type': [Change('rope', TENSORS), Change('rope', SAME, dict(qkv_bias=False))],
        'attn_only_layer_scale': [Change(True, TENSORS, dict(init_values=0.1))],
        'num_reg_tokens': [Change(1, TENSORS)],
        'use_abs_pos_emb': [Change(False, TENSORS)],
        'use_rot_pos_emb': [Change(False, DESCRIBED)],
        'rope_type': [Change('dinov3', DESCRIBED), Change('mrope', REFUSED)],
        'rope_grid_offset': [Change(0.5, DESCRIBED)],
        'rope_grid_indexing': [Change('xy', DESCRIBED)],
        'rope_temperature': [
            Change(100.0, DESCRIBED),
            Change(100.0, DESCRIBED, dict(rope_type='dinov3')),
            Change(100.0, SAME, dict(rope_type='mixed')),
        ],
        'rope_rotate_half': [Change(True, DESCRIBED)],
        'rope_mrope_section': [Change((2, 2, 2), SAME)],
        'ref_feat_shape': [Change(8, DESCRIBED)],
        'use_post_norm': [Change(True, REFUSED)],
        'use_pre_transformer_norm': [Change(True, TENSORS)],
        'use_post_transformer_norm': [Change(True, TENSORS)],
        'use_fc_norm': [Change(False, TENSORS)],
        'attn_pool_num_heads': [Change(4, DESCRIBED, dict(global_pool='map'))],
        'attn_pool_mlp_ratio': [Change(2.0, TENSORS, dict(global_pool='map'))],
    },
    'SwinTrunk': {
        **COMMON,
        **refused('always_partition', 'strict_img_size', 'embed_layer'),
        'img_size': [
            Change(32, TENSORS), Change(128, DESCRIBED), Change((128, 64), DESCRIBED),
            # A window that covers a stage does not shift; by its size one cannot tell.
            Change(128, DESCRIBED, dict(window_size=(4, 8))),
        ],
        'global_pool': [Change('', SAME)],
        'embed_dim': [Change(32, TENSORS)],
        'depths': [Change((1, 1), TENSORS)],
        'num_heads': [Change((1, 1), TENSORS), Change((4, 4), TENSORS)],
        'head_dim': [Change(4, TENSORS)],
        'window_size': [Change(4, TENSORS)],
        'weight_init': [Change('jax', SAME)],
    },
}  # fmt: skip
ARCHS = {
    'ViTTrunk': ('vit_tiny_patch16_224', VisionTransformer),
    'EvaTrunk': ('eva02_tiny_patch14_224', Eva),
    'SwinTrunk': ('swin_tiny_patch4_window7_224', SwinTransformer),
}
SMALL = {
    'ViTTrunk': dict(embed_dim=32, depth=2, num_heads=2, img_size=32, patch_size=8),
    'EvaTrunk': dict(embed_dim=32, depth=2, num_heads=2, img_size=32, patch_size=8),
    'SwinTrunk': dict(
        embed_dim=16, depths=(2, 2), num_heads=(2, 2), img_size=64, patch_size=4, window_size=8
    ),
}


def build(trunk: str, options: dict[str, Any], **arguments: Any) -> torch.nn.Module:
    """Build a trunk; it keeps a pooling that its options give it."""
    if options.get('global_pool') == 'map':
        arguments['attn_pool'] = True
    config = dict(type=f'hstpeft.{trunk}', arch=ARCHS[trunk][0], arch_options=options, **arguments)
    return MODELS.build(config).eval()


def assert_change(trunk: str, name: str, change: Change) -> None:
    options = {**SMALL[trunk], **change.beside}
    other = {**options, name: change.value}
    if change.effect == REFUSED:
        with pytest.raises(UserError, match=r'trunk\.arch'):
            build(trunk, other)
        return
    one, two = build(trunk, options), build(trunk, other)
    shapes = [{key: x.shape for key, x in each.timm_tensors().items()} for each in (one, two)]
    assert (shapes[0] != shapes[1]) == (change.effect == TENSORS)
    if change.effect == TENSORS:
        return
    hashes = [hash_description(each.description()) for each in (one, two)]
    assert (hashes[0] != hashes[1]) == (change.effect == DESCRIBED)
    if change.effect == SAME:
        two.net.load_state_dict(one.net.state_dict())
        outputs = []
        for each in (one, two):
            tokens, grid = each.embed(images(1, 3, 32, 32))
            outputs.append(each.final_norm(each.run(tokens, Places(), (1,), grid)[1]))
        assert outputs[0].equal(outputs[1])


@pytest.mark.parametrize('trunk', OPTIONS)
def test_every_option_of_timms_class_is_in_the_table(trunk):
    known = inspect.signature(ARCHS[trunk][1]).parameters
    assert set(known) == set(OPTIONS[trunk])
    assert all(OPTIONS[trunk].values())


@pytest.mark.parametrize(
    ('trunk', 'name'),
    [
        pytest.param(trunk, name, marks=[pytest.mark.slow] * (trunk != 'ViTTrunk'))
        for trunk, options in OPTIONS.items()
        for name in options
    ],
)
def test_another_value_is_refused_or_shows_or_changes_no_output(trunk, name):
    for change in OPTIONS[trunk][name]:
        assert_change(trunk, name, change)
