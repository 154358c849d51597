"""Every variant of timm's class Eva, shrunken: its options, drawn weights, timm's own model and ours."""

import functools

import timm

from hstpeft.models import EvaTrunk
from hstpeft.models.trunks import Places
from tests.support.models import draw

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
