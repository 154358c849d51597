"""`tools/check_reference.py` on SSF, VPT, AdaptFormer and Adapter+: official cases, others, what must fail."""

import itertools

import pytest

from tests.support import (
    made_adapter_plus_cases,
    made_adaptformer_cases,
    made_ssf_cases,
    made_vpt_cases,
)
from tests.support.changed_cases import (
    argument,
    change_description,
    change_number,
    check,
    frozen,
    in_train_mode,
    list_cases,
    training,
    without,
    write_case,
)
from tests.support.paths import REFERENCE
from tests.support.precisions import each_precision, each_precision_option

SSF, SSF_SWIN = made_ssf_cases.write_vit_case, made_ssf_cases.write_swin_case
VPT, VPT_SWIN = made_vpt_cases.write_vit_case, made_vpt_cases.write_swin_case
ADAPTFORMER = made_adaptformer_cases.write_case
ADAPTER_PLUS = made_adapter_plus_cases.write_case
NUM_OFFICIAL = {'ssf': 3, 'vpt': 5, 'adaptformer': 2, 'adapter_plus': 4}

# What each made case changes of the defaults in tests/support/made_*_cases.py.
OTHERS = {
    SSF: {
        'as it is': {},
        'scales around 0': dict(scales_around=0, seed=3),
        'qkv without bias': dict(qkv_bias=False),
        'qkv without bias, scales around 0': dict(qkv_bias=False, scales_around=0),
        'one block': dict(depth=1),
        'deep and narrow': dict(depth=7, width=16, heads=4),
        'wide image': dict(size=(32, 80), patch=16, width=48, heads=3),
        'MLP that is no multiple': dict(mlp_ratio=2.7, width=40, heads=5),
        'train mode, nothing drops': dict(mode='train', labels=(1, 0, 3)),
        'dropout, which eval mode ignores': dict(dropout=0.1),
        'no labels': dict(labels=None),
    },
    SSF_SWIN: {
        'as it is': {},
        'scales around 0': dict(scales_around=0),
        'qkv without bias': dict(qkv_bias=False, seed=5),
        'four stages': dict(depths=(1, 2, 3, 1), heads=(1, 2, 2, 4), window=2, width=8),
        'one stage': dict(depths=(3,), heads=(2,)),
        'one block': dict(depths=(1,), heads=(1,)),
        'wide image': dict(size=(16, 48), window=4),
        'a window that covers the map': dict(window=8),
        'a window larger than the last map': dict(size=(24, 24), window=12, patch=2),
        'MLP that is no multiple': dict(mlp_ratio=2.7, width=20),
        'train mode, nothing drops': dict(mode='train'),
        'drop path, which eval mode ignores': dict(drop_path=0.1),
        'no labels': dict(labels=None),
    },
    VPT: {
        'deep': {},
        'shallow': dict(deep=False, tokens=5),
        'deep, projected': dict(project=6),
        'shallow, projected': dict(deep=False, project=6),
        'projected to more': dict(project=40),
        'projected to the same width': dict(project=32),
        'projected from one number': dict(project=1, tokens=1),
        'one token': dict(tokens=1),
        'many tokens': dict(tokens=50),
        'one block, deep': dict(depth=1),
        'one block, shallow': dict(depth=1, deep=False),
        'one block, deep and projected': dict(depth=1, project=6),
        'deep and narrow': dict(depth=7, width=16, heads=4, seed=3),
        'wide image': dict(size=(32, 80), patch=16),
        'MLP that is no multiple': dict(mlp=61, width=56, heads=7),
        'prompt dropout, which eval mode ignores': dict(prompt_dropout=0.1),
        'other dropout, which eval mode ignores': dict(dropout=0.1),
        'other dropout, which the frozen trunk never has': dict(dropout=0.1, mode='train'),
        'train mode, nothing drops': dict(mode='train', labels=(3, 1, 0)),
        'no labels': dict(labels=None),
    },
    VPT_SWIN: {
        'deep': {},
        'shallow': dict(deep=False),
        'deep, more blocks': dict(depths=(2, 1, 3, 2), window=2, size=(32, 32)),
        'shallow, more blocks': dict(depths=(2, 1, 3, 2), window=2, size=(32, 32), deep=False),
        'one block a stage, deep': dict(depths=(1, 1, 1, 1)),
        'qkv without bias': dict(qkv_bias=False, seed=5),
        'one token': dict(tokens=1, deep=False),
        'many tokens': dict(tokens=20),
        'wide image': dict(size=(32, 96), window=2),
        'a window that covers every map': dict(window=32, deep=False, size=(32, 32)),
        'prompt dropout, which eval mode ignores': dict(prompt_dropout=0.1),
        'drop path, which eval mode ignores': dict(drop_path=0.2),
        'drop path, which the frozen trunk never has': dict(drop_path=0.2, mode='train'),
        'no labels': dict(labels=None),
    },
    ADAPTFORMER: {
        'one block': dict(depth=1, prompts=2),
        'one block, averaged': dict(depth=1, global_pool=True),
        'qkv without bias': dict(qkv_bias=False),
        'deep and narrow': dict(depth=7, width=16, heads=4, seed=3),
        'adapter of one number': dict(adapter_dims=1, scale='4'),
        'adapter wider than the trunk': dict(adapter_dims=40, scale='1e-2'),
        'wide image': dict(size=(32, 80), patch=16, prompts=1),
        'MLP that is no multiple': dict(mlp_ratio=2.7, width=40, heads=5),
        'dropout, which eval mode ignores': dict(dropout=0.1),
        'no labels': dict(labels=None),
    },
    ADAPTER_PLUS: {
        'as it is': {},
        'pfeiffer, norm': dict(form='pfeiffer', norm=True, scaling=1.0),
        'pfeiffer without norm, no bias': dict(form='pfeiffer', scaling='learned', bias=False),
        'post, norm, no activation': dict(norm=True, act=False, scaling=0.5),
        'post, scales around 0': dict(scales_around=0, seed=3),
        'intermediate, layer scale': dict(form='intermediate', layer_scale=True, scaling=2.0),
        'intermediate, norm, no bias': dict(form='intermediate', norm=True, bias=False),
        'parallel, layer scale': dict(form='parallel', layer_scale=True, scaling=0.1),
        'parallel, norm, no activation': dict(form='parallel', norm=True, act=False),
        'parallel, norms trained': dict(form='parallel', train_ln=True, scaling='learned'),
        'pre': dict(form='pre'),
        'pre, everything': dict(form='pre', norm=True, layer_scale=True, train_ln=True),
        'houlsby': dict(form='houlsby', scaling=1.0, train_ln=True),
        'houlsby, layer scale': dict(form='houlsby', layer_scale=True),
        'houlsby, norm, no bias': dict(form='houlsby', norm=True, bias=False, scaling='learned'),
        'houlsby, linear': dict(form='houlsby', act=False, bias=False, train_ln=True, norm=True),
        'an adapter that nothing reads': dict(attn_adapter=True, scaling=1.0),
        'no factor at all': dict(scaling=0.0, form='parallel', labels=None),
        'one block': dict(depth=1, form='houlsby'),
        'deep and narrow': dict(depth=7, width=16, heads=4, seed=3, norm=True),
        'adapter of one number': dict(adapter_dims=1, scaling=4),
        'adapter wider than the trunk': dict(adapter_dims=40),
        'wide image, qkv without bias': dict(size=(32, 80), patch=16, qkv_bias=False),
        'MLP that is no multiple': dict(mlp_ratio=2.7, width=40, heads=5),
        'dropout, which eval mode ignores': dict(dropout=0.1),
        'train mode, nothing drops': dict(mode='train', form='pre', labels=(3, 1, 0)),
        'no labels': dict(labels=None),
    },
}  # fmt: skip
VOCABULARY = dict(
    form=('parallel', 'sequential'), norm=('none', 'in', 'out'), scale=('0.1', 'learnable_scalar'),
    global_pool=(False, True), prompts=(0, 3),
)  # fmt: skip
for values in itertools.product(*VOCABULARY.values()):
    chosen = dict(zip(VOCABULARY, values, strict=True))
    OTHERS[ADAPTFORMER][', '.join(f'{name} {value}' for name, value in chosen.items())] = chosen


@each_precision_option
@pytest.mark.parametrize('system', NUM_OFFICIAL)
def test_the_official_cases_pass(system, options, capsys):
    assert check(REFERENCE, '--system', system, *options) == 0
    assert capsys.readouterr().out.endswith(f'{NUM_OFFICIAL[system]} passed, 0 failed\n')


@each_precision
@pytest.mark.parametrize(('write', 'options'), list_cases(OTHERS))
def test_other_sizes_seeds_and_options_pass(tmp_path, write, options, float64, capsys):
    write_case(write, tmp_path, options)
    status = check(tmp_path, *(['--float64'] if float64 else []))
    assert status == 0, capsys.readouterr().out


ARRAYS = {
    SSF: ['layer0', 'encoded', 'logits', 'loss', 'grad_l2', 'grad_sum', 'grad_probe',
          'grad/blocks.0.attn.ssf_shift_1', 'grad/ssf_scale_1', 'grad/head.bias'],
    SSF_SWIN: ['stage0', 'stage1', 'logits', 'grad/patch_embed.ssf_scale_2'],
    VPT: ['layer0', 'encoded', 'logits', 'grad/enc.transformer.deep_prompt_embeddings',
          'grad/head.last_layer.bias'],
    VPT_SWIN: ['stage0', 'stage2', 'stage3', 'logits', 'grad/enc.deep_prompt_embeddings_2'],
    ADAPTFORMER: ['layer0', 'encoded', 'logits', 'grad/blocks.1.adaptmlp.down_proj.weight'],
    ADAPTER_PLUS: ['layer0', 'encoded', 'logits', 'grad/blocks.1.adapter.scaling'],
}  # fmt: skip


@pytest.mark.parametrize(
    ('write', 'array'), [(write, array) for write, arrays in ARRAYS.items() for array in arrays]
)
def test_one_changed_number_fails(tmp_path, write, array, capsys):
    change_number(write(tmp_path, {}), array)
    assert check(tmp_path) == 1
    out = capsys.readouterr().out
    assert 'FAILED' in out and array in out


@pytest.mark.parametrize(
    ('write', 'change', 'word'),
    [
        (SSF, argument('number of wings', 2), 'number of wings'),
        (SSF, in_train_mode('all dropout', 0.1), 'dropout'),
        (SSF, frozen('blocks.1.mlp.ssf_shift_2'), 'blocks.1.mlp.ssf_shift_2'),
        (SSF_SWIN, argument('number of wings', 2), 'number of wings'),
        (SSF_SWIN, in_train_mode('drop path', 0.1), 'drop'),
        (SSF_SWIN, argument('window', 2), 'relative_position_bias_table'),
        (VPT, argument('number of wings', 2), 'number of wings'),
        (VPT, argument('location', 'add'), "'add'"),
        (VPT, argument('head hidden layers', 1), 'head hidden layers'),
        (VPT, argument('transfer type', 'adapter'), "'adapter'"),
        (VPT, in_train_mode('prompt dropout', 0.1), 'prompt dropout'),
        (VPT, argument('NUM_TOKENS', 4), 'NUM_TOKENS|shape'),
        (VPT, frozen('enc.transformer.prompt_embeddings'), 'enc.transformer.prompt_embeddings'),
        (VPT, without('enc.transformer.encoder.layer.1.attn.key.bias'), 'layer.1.attn.key.bias'),
        (VPT_SWIN, argument('PROJECT', 4), 'PROJECT|prompt_dims'),
        (ADAPTFORMER, training, 'dropout'),
        (ADAPTFORMER, argument('number of wings', 2), 'number of wings'),
        (ADAPTFORMER, argument('ffn_option', 'beside'), "'beside'"),
        (ADAPTFORMER, argument('ffn_adapter_layernorm_option', 'in'), 'adapter_layer_norm'),
        (ADAPTFORMER, frozen('blocks.0.adaptmlp.up_proj.bias'), 'adaptmlp.up_proj.bias'),
        (ADAPTFORMER, without('blocks.2.adaptmlp.up_proj.bias'), 'blocks.2.adaptmlp.up_proj.bias'),
        (ADAPTER_PLUS, argument('number of wings', 2), 'number of wings'),
        (ADAPTER_PLUS, argument('config', 'beside'), "'beside'"),
        (ADAPTER_PLUS, argument('config', 'houlsby'), 'adapter_attn'),
        (ADAPTER_PLUS, argument('config', 'intermediate'), 'layer0 differs'),
        (ADAPTER_PLUS, argument('act_layer', False), 'layer0 differs'),
        (ADAPTER_PLUS, argument('norm_layer', True), 'norm_a'),
        (ADAPTER_PLUS, argument('bias', False), 'bias'),
        (ADAPTER_PLUS, argument('train_ln', True), 'norm1'),
        (ADAPTER_PLUS, argument('scaling', 2.0), 'scale'),
        (ADAPTER_PLUS, in_train_mode('all dropout', 0.1), 'dropout'),
        (ADAPTER_PLUS, without('head.bias'), 'head.bias'),
    ],
)
def test_a_changed_description_fails(tmp_path, write, change, word, capsys):
    change_description(write(tmp_path, {}), change)
    assert check(tmp_path) == 1
    out = capsys.readouterr().out
    assert 'FAILED' in out and any(part in out for part in word.split('|')), out
