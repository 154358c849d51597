"""Cases of RepAdapter and FacT for `tools/check_reference.py`, and what it must notice."""

from tests.support import made_fact_cases, made_repadapter_cases
from tests.support.changed_cases import argument, training, without

VIT, SWIN = made_repadapter_cases.write_vit_case, made_repadapter_cases.write_swin_case
FACT = made_fact_cases.write_case
NUM_OFFICIAL = {'repadapter': 3, 'fact': 2}

# What each made case changes of the defaults in tests/support/made_*_cases.py.
OTHERS = {
    VIT: {
        'attention alone, wide image': dict(method='repattn', size=(32, 80), patch=16, scale=2),
        'one group, one block': dict(groups=1, depth=1),
        'as many groups as dims, dropout in eval mode': dict(groups=8, adapter_dims=8, dropout=0.1),
        'qkv without bias, an MLP that is no multiple': dict(qkv_bias=False, mlp_ratio=2.7, seed=3),
        'no labels, wider than the trunk': dict(labels=None, adapter_dims=40, scale=0.1),
    },
    SWIN: {
        'attention alone, wide image': dict(method='repattn', size=(16, 48), scale=1),
        'four stages, one group': dict(
            depths=(1, 2, 2, 1), heads=(1, 2, 2, 4), window=2, width=8, groups=1, drop_path=0.1
        ),
        'one stage, four groups, qkv without bias': dict(
            depths=(3,), heads=(2,), groups=4, adapter_dims=8, qkv_bias=False, seed=5
        ),
        'a window that covers the map': dict(window=8, mlp_ratio=2.7, width=20),
    },
    FACT: {
        'TT, one block, wide image': dict(depth=1, size=(32, 80), patch=16, scale=0.01),
        'TT, rank 1, qkv without bias': dict(rank=1, qkv_bias=False, seed=3),
        'TT, rank above the width, dropout in eval mode': dict(rank=40, dropout=0.1, scale=0.1),
        'TT, MLP of another width': dict(mlp_ratio=2),
        'TT, no labels': dict(labels=None),
        'TK, one block, wide image': dict(kind='TK', depth=1, size=(32, 80), patch=16, scale=0.01),
        'TK, rank 1, qkv without bias': dict(kind='TK', rank=1, qkv_bias=False, seed=3),
        'TK, deep and narrow': dict(kind='TK', depth=7, width=16, heads=4, rank=6, scale=0.1),
        'TK, MLP of another width': dict(kind='TK', mlp_ratio=3, labels=(3, 1, 0)),
    },
}  # fmt: skip
NUMBERS = [
    (VIT, {}, 'grad/blocks.1.adapter_mlp.conv_B.weight'),
    (SWIN, {}, 'stage1'),
    (FACT, {}, 'grad/blocks.1.attn.v_FacTs.weight'),
    (FACT, dict(kind='TK'), 'grad/FacTp'),
]
"""Writers, options, and an array of which a changed number is to be noticed."""
CHANGES = [
    (VIT, training, 'dropout'),
    (VIT, argument('number of wings', 2), 'number of wings'),
    (VIT, argument('method', 'repmlp'), "'repmlp'"),
    (VIT, argument('method', 'repattn'), 'the model has no'),
    (VIT, argument('groups', 3), 'num_groups 3 must divide'),
    (VIT, without('blocks.2.adapter_mlp.conv_A.bias'), 'blocks.2.adapter_mlp.conv_A.bias'),
    (SWIN, argument('scale', 0.6), 'stage0'),
    (FACT, training, 'dropout'),
    (FACT, argument('number of wings', 2), 'number of wings'),
    (FACT, argument('kind', 'TD'), "'td'"),
    (FACT, argument('rank', 4), 'shape'),
    (FACT, argument('scale', 1.1), 'layer0'),
    (FACT, without('blocks.1.attn.k_FacTs.weight'), 'blocks.1.attn.k_FacTs.weight'),
]
"""Writers, changes of a description, and a word of what is said then (or of another: `|`)."""
