"""What the tuners that papers compare with train at full size is what the official codes train."""

import json

import pytest
import torch
from mmpretrain.registry import MODELS

from tests.support.paths import REFERENCE

COUNTS = json.loads((REFERENCE / 'full_size_counts_baselines.json').read_text())
VIT = dict(
    type='hstpeft.ViTTrunk', arch='vit_base_patch16_224', arch_options=dict(weight_init='skip')
)
SWIN = dict(type='hstpeft.SwinTrunk', arch='swin_base_patch4_window7_224')
SSF = dict(type='hstpeft.SSFTuner')
VPT = dict(type='hstpeft.VPTTuner')
REPADAPTER = dict(type='hstpeft.RepAdapterTuner')
FACT = dict(type='hstpeft.FacTTuner')
ADAPTFORMER = dict(type='hstpeft.AdaptFormerTuner')
MODELS_OF = {
    'vpt': {
        'vit_b16_shallow_5_tokens (defaults)': (VIT, dict(VPT, deep=False)),
        'vit_b16_deep_5_tokens': (VIT, VPT),
        'vit_b16_shallow_50_tokens': (VIT, dict(VPT, deep=False, num_tokens=50)),
        'vit_b16_deep_50_tokens': (VIT, dict(VPT, num_tokens=50)),
        'vit_b16_deep_5_tokens_project_768': (VIT, dict(VPT, prompt_dims=768)),
        'swin_b_shallow_5_tokens': (SWIN, dict(VPT, deep=False)),
        'swin_b_deep_5_tokens': (SWIN, VPT),
    },
    'adaptformer': {
        'vit_b16_ffn_num_64 (default)': (VIT, ADAPTFORMER),
        'vit_b16_ffn_num_8': (VIT, dict(ADAPTFORMER, adapter_dims=8)),
        'vit_b16_ffn_num_1': (VIT, dict(ADAPTFORMER, adapter_dims=1)),
    },
    'ssf': {'vit_b16 (default)': (VIT, SSF), 'swin_b': (SWIN, SSF)},
    'repadapter': {
        'vit_b16_repblock_dim_8 (default)': (VIT, REPADAPTER),
        'vit_b16_repattn_dim_8': (VIT, dict(REPADAPTER, positions=['attention'])),
        'swin_b_repblock_dim_8': (SWIN, REPADAPTER),
    },
    'fact': {
        'vit_b16_tt_rank_8': (VIT, dict(FACT, rank=8)),
        'vit_b16_tt_rank_16': (VIT, FACT),
        'vit_b16_tk_rank_16': (VIT, dict(FACT, form='tk')),
        'vit_b16_tk_rank_32': (VIT, dict(FACT, form='tk', rank=32)),
    },
}
CASES = [(system, case) for system, cases in MODELS_OF.items() for case in cases]
WIDTHS = {VIT['type']: 768, SWIN['type']: 1024}
CLASSES = 100


@pytest.mark.parametrize('system', MODELS_OF)
def test_every_official_count_is_compared(system):
    assert MODELS_OF[system].keys() == COUNTS[system].keys() - {'notes'}


@pytest.mark.parametrize(('system', 'case'), CASES)
def test_counts_are_the_official_ones(system, case):
    trunk, tuner = MODELS_OF[system][case]
    width = WIDTHS[trunk['type']]
    config = dict(
        type='ImageClassifier',
        backbone=dict(type='hstpeft.TunedBackbone', trunk=dict(trunk), tuner=dict(tuner)),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=width),
    )
    with torch.device('meta'):
        model = MODELS.build(config)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    trained, head = sum(size for size, free in sizes if free), CLASSES * (width + 1)
    assert trained - head == COUNTS[system][case]['trainable_without_head']
    assert trained == COUNTS[system][case]['trainable_100_classes']
    assert sum(size for size, _ in sizes) == COUNTS[system][case]['total_100_classes']


@pytest.mark.parametrize(
    ('parts', 'count'),
    [
        # Of each block: two norms, qkv (3 C), proj, fc1 (4 C), fc2; patches and the final norm.
        (('biases',), 12 * 11 * 768 + 2 * 768),
        (('norms',), 25 * 2 * 768),
        (('norms', 'biases'), 12 * 13 * 768 + 3 * 768),
    ],
)
def test_counts_of_parts_of_the_trunk_are_what_their_layers_have(parts, count):
    tuner = dict(type='hstpeft.SelectiveTuner', parts=parts)
    with torch.device('meta'):
        backbone = MODELS.build(dict(type='hstpeft.TunedBackbone', trunk=dict(VIT), tuner=tuner))
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) == count
