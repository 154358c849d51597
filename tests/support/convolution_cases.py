"""Cases of Convpass and Mona for `tools/check_reference.py`, and what it must notice."""

from tests.support import made_convpass_cases, made_mona_cases
from tests.support.changed_cases import argument, renamed, training, without

VIT, SWIN = made_convpass_cases.write_vit_case, made_convpass_cases.write_swin_case
MONA = made_mona_cases.write_case
NUM_OFFICIAL = {'convpass': 3, 'mona': 2}

# What each made case changes of the defaults in tests/support/made_*_cases.py.
OTHERS = {
    VIT: {
        'attention alone, wide image': dict(method='convpass_attn', size=(32, 80), patch=16),
        'full size of the bypass': dict(adapter_dims=8, scale=10, seed=3),
        'bypass of one number, one block': dict(adapter_dims=1, depth=1, scale=100, seed=5),
        'bypass wider than the trunk': dict(adapter_dims=40, width=24, heads=3, scale=0.01),
        'qkv without bias, an MLP that is no multiple': dict(qkv_bias=False, mlp_ratio=2.7),
        'dropout, which eval mode ignores': dict(dropout=0.1, classes=11, labels=(10, 3, 1)),
        'no labels': dict(labels=None, size=(24, 24)),
    },
    SWIN: {
        'attention alone, wide image': dict(method='convpass_attn', size=(16, 48)),
        'windows that cover every map': dict(window=16, scale=1, drop_path=0.1),
        'four stages': dict(depths=(1, 2, 2, 1), heads=(1, 2, 2, 4), window=2, width=8),
        'one stage, qkv without bias': dict(depths=(3,), heads=(2,), qkv_bias=False, seed=5),
        'no labels': dict(labels=None, mlp_ratio=2.7, width=20),
    },
    MONA: {
        'the official width, covered by one window': dict(window=8, adapter_dims=64),
        'a window larger than any map': dict(window=12, seed=3),
        'covered from one side': dict(window=4, size=(8, 24), depths=(2, 2), seed=4),
        'no multiples of an odd window': dict(window=3, size=(16, 20), depths=(4, 2), seed=5),
        'sides that do not halve': dict(window=3, size=(22, 18), depths=(1, 2, 2), heads=(1, 2, 4)),
        'a side that is no multiple of the patch': dict(size=(31, 21), patch=4),
        'windows of one cell': dict(window=1, size=(8, 8)),
        'one stage, qkv without bias': dict(depths=(3,), heads=(2,), qkv_bias=False, mlp_ratio=2.7),
        'drop path, which eval mode ignores': dict(drop_path=0.3, labels=None),
    },
}
ARRAYS = {
    VIT: ['layer0', 'grad_l2', 'grad/blocks.1.adapter_mlp.adapter_conv.weight'],
    SWIN: ['stage0', 'logits', 'grad/layers.1.blocks.0.adapter_attn.adapter_down.bias'],
    MONA: ['stage1', 'loss', 'grad/backbone.layers.1.blocks.1.my_module_2.adapter_conv.conv3.weight'],
}  # fmt: skip
NUMBERS = [(write, {}, array) for write, arrays in ARRAYS.items() for array in arrays]
"""Writers, options, and an array of which a changed number is to be noticed."""
CONV = 'blocks.2.adapter_mlp.adapter_conv.bias'
GAMMA = 'backbone.layers.1.blocks.0.my_module_2.gamma'
CHANGES = [
    (VIT, argument('number of wings', 2), 'number of wings'),
    (VIT, argument('method', 'convpass_mlp'), "method 'convpass_mlp' is not understood"),
    (VIT, argument('method', 'convpass_attn'), 'the model has no'),
    (VIT, argument('scale', 0.2), 'layer0 differs'),
    (VIT, training, 'dropout'),
    (VIT, renamed(CONV, CONV.replace('mlp', 'ffn')), 'not an official Convpass checkpoint'),
    (VIT, renamed(CONV, CONV.replace('_conv', '')), 'not an official Convpass checkpoint'),
    (SWIN, argument('layers', 2), 'layers'),
    (MONA, argument('number of wings', 2), 'number of wings'),
    (MONA, argument('window', 3), 'relative_position_bias_table'),
    (MONA, training, 'dropout'),
    (MONA, without('backbone.norm1.bias'), 'missing: norm.bias'),
    (MONA, renamed(GAMMA, f'{GAMMA}y'), 'not an official Mona checkpoint'),
    (MONA, renamed(GAMMA, GAMMA.replace('_2', '_3')), 'not an official Mona checkpoint'),
]
"""Writers, changes of a description, and a word of what is said then (or of another: `|`)."""
