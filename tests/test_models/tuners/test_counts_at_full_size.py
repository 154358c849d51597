"""What tuners train at full size is what official codes train, and what their docstrings say."""

import inspect
import json

import pytest
import torch
from mmpretrain.registry import MODELS

from hstpeft.models import tuners
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
ADAPTER_PLUS = dict(type='hstpeft.AdapterPlusTuner')
HOULSBY = dict(ADAPTER_PLUS, form='houlsby', scale=1.0, train_norms=True)
PFEIFFER = dict(ADAPTER_PLUS, form='pfeiffer', scale=1.0, adapter_norm='in')
PARALLEL = dict(ADAPTER_PLUS, form='parallel', scale=0.1)
SWIN_LARGE = dict(SWIN, arch='swin_large_patch4_window7_224')
CONVPASS = dict(type='hstpeft.ConvpassTuner')
MONA = dict(type='hstpeft.MonaTuner')
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
    'convpass': {
        'vit_b16_convpass_dim_8 (default)': (VIT, CONVPASS),
        'vit_b16_convpass_attn_dim_8': (VIT, dict(CONVPASS, positions=['attention'])),
        'swin_b_convpass_dim_8': (SWIN, CONVPASS),
    },
    'mona': {'swin_b': (SWIN, MONA), 'swin_l (official)': (SWIN_LARGE, MONA)},
    'adaptformer': {
        'vit_b16_ffn_num_64 (default)': (VIT, ADAPTFORMER),
        'vit_b16_ffn_num_8': (VIT, dict(ADAPTFORMER, adapter_dims=8)),
        'vit_b16_ffn_num_1': (VIT, dict(ADAPTFORMER, adapter_dims=1)),
    },
    'adapter_plus': {
        'vit_b16_post_channel_dim_8 (default)': (VIT, ADAPTER_PLUS),
        **{
            f'vit_b16_post_channel_dim_{dims}': (VIT, dict(ADAPTER_PLUS, adapter_dims=dims))
            for dims in (1, 2, 4, 16, 32)
        },
        'vit_b16_houlsby_dim_4_train_ln': (VIT, dict(HOULSBY, adapter_dims=4)),
        'vit_b16_houlsby_dim_8_train_ln': (VIT, HOULSBY),
        'vit_b16_pfeiffer_dim_8': (VIT, PFEIFFER),
        'vit_b16_parallel_dim_8 (AdaptFormer ablation)': (VIT, PARALLEL),
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
CASES = [
    pytest.param(system, case, marks=[pytest.mark.slow] * (number > 0))
    for system, cases in MODELS_OF.items()
    for number, case in enumerate(cases)
]
WIDTHS = {VIT['arch']: 768, SWIN['arch']: 1024, SWIN_LARGE['arch']: 1536}
CLASSES = 100


@pytest.mark.parametrize('system', MODELS_OF)
def test_every_official_count_is_compared(system):
    assert MODELS_OF[system].keys() == COUNTS[system].keys() - {'notes'}


@pytest.mark.parametrize(('system', 'case'), CASES)
def test_counts_are_the_official_ones(system, case):
    trunk, tuner = MODELS_OF[system][case]
    width = WIDTHS[trunk['arch']]
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


def trained_of(tuner):
    """Count what a tuner trains of and on a ViT-B/16."""
    with torch.device('meta'):
        backbone = MODELS.build(dict(type='hstpeft.TunedBackbone', trunk=dict(VIT), tuner=tuner))
    return sum(p.numel() for p in backbone.parameters() if p.requires_grad)


def is_told(name):
    """Whether a tuner trains something, and can be built without a word."""
    parameters = inspect.signature(getattr(tuners, name)).parameters.values()
    has_defaults = all(parameter.default is not parameter.empty for parameter in parameters)
    return has_defaults and name not in ('Tuner', 'FrozenTuner')


KINDS = [name for name in tuners.__all__ if name.endswith('Tuner') and is_told(name)]


@pytest.mark.slow
@pytest.mark.parametrize('name', KINDS)
def test_a_docstring_tells_what_a_tuner_trains_of_a_vit_b_16_with_default_options(name):
    words = [word.strip('.,;:()') for word in getattr(tuners, name).__doc__.split()]
    assert f'{trained_of(dict(type=f"hstpeft.{name}")):,}' in words


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        # Of each block: two norms, qkv (3 C), proj, fc1 (4 C), fc2; patches and the final norm.
        (dict(parts=['biases']), 12 * 11 * 768 + 2 * 768),
        (dict(parts=['norms']), 25 * 2 * 768),
        (dict(parts=['norms', 'biases']), 12 * 13 * 768 + 3 * 768),
        (dict(parts=['attention_proj']), 12 * 768 * 769),
        (dict(parts=['cls_token', 'pos_embed']), 768 + 197 * 768),
        (dict(last_blocks=2), 2 * (12 * 768**2 + 13 * 768) + 2 * 768),
    ],
)
def test_counts_of_parts_of_the_trunk_are_what_their_layers_have(options, expected):
    assert trained_of(dict(type='hstpeft.SelectiveTuner', **options)) == expected


def test_counts_of_low_rank_products():
    lora = dict(type='hstpeft.LoRATuner', positions=['q', 'v'])
    assert trained_of(lora) == 12 * 2 * 8 * (768 + 768) == 294_912
    peft = dict(type='hstpeft.HFPeftTuner', peft_type='LORA')
    assert trained_of(peft) == 12 * 8 * (768 + 3 * 768) == 294_912
    assert trained_of(dict(peft, peft_type='DORA')) - trained_of(peft) == 12 * 3 * 768 == 27_648
