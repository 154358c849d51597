"""Official checkpoints of tuners that papers compare with become a trunk by its own names and a delta."""

import pytest
import torch
from torch import Tensor

from hstpeft.errors import UserError
from hstpeft.official.adapter_plus import split_adapter_plus
from hstpeft.official.adaptformer import split_adaptformer
from hstpeft.official.common import SWIN, TRUNK, swin_names
from hstpeft.official.convpass import split_convpass
from hstpeft.official.fact import split_fact
from hstpeft.official.mona import split_mona
from hstpeft.official.repadapter import split_repadapter
from hstpeft.official.ssf import split_ssf, ssf_name
from hstpeft.official.vpt import prompt_rows, split_vpt
from hstpeft.oracle.case import Case
from tests.support.paths import REFERENCE

SYSTEMS = {
    'ssf': split_ssf,
    'vpt': split_vpt,
    'adaptformer': split_adaptformer,
    'adapter_plus': split_adapter_plus,
    'convpass': split_convpass,
    'mona': split_mona,
    'fact': split_fact,
    'repadapter': split_repadapter,
}
CASES = [path for system in SYSTEMS for path in sorted((REFERENCE / system).glob('*.json'))]


def official(path) -> tuple[str, dict[str, Tensor]]:
    """Return the system of a case and its weights, tables that a Swin computes included."""
    case = Case(path, torch.float32)
    tables = {k: torch.zeros(s) for k, s, kind in case.meta['buffers'] if kind == 'constructed'}
    return case.meta['system'], {**case.weights, **tables}


def split(system: str, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    norm = any('adapter_layer_norm' in key for key in weights)
    options = [weights, *(['in'] if norm else [])]
    return SYSTEMS[system](*options)[:2]


@pytest.mark.parametrize('path', CASES, ids=lambda path: f'{path.parent.name}/{path.stem}')
def test_no_value_is_lost_or_made_up(path):
    system, weights = official(path)
    trunk, delta = split(system, weights)
    kept = {k: v for k, v in weights.items() if not k.endswith(('_index', 'attn_mask'))}
    parts = [*trunk.values(), *delta.values()]
    given, got = ([t.double().flatten() for t in each] for each in (kept.values(), parts))
    assert torch.cat(got).sort().values.equal(torch.cat(given).sort().values)
    assert all(key.startswith(('backbone.', 'head.', 'neck.')) for key in delta)


@pytest.mark.parametrize('path', CASES, ids=lambda path: f'{path.parent.name}/{path.stem}')
def test_the_trunk_has_the_names_of_its_own_weight_files(path):
    system, weights = official(path)
    trunk, _ = split(system, weights)
    if 'depths' in Case(path, torch.float32).arguments:
        depths = Case(path, torch.float32).arguments['depths']
        by_timm = {name.removeprefix(SWIN) for name in swin_names(tuple(depths)).values()}
        by_microsoft = set(swin_names(tuple(depths)))
        assert trunk.keys() == (by_timm if system in ('vpt', 'repadapter') else by_microsoft)
        return
    outer = {'cls_token', 'pos_embed', 'patch_embed.proj.weight', 'patch_embed.proj.bias'}
    layers = ('norm1', 'attn.qkv', 'attn.proj', 'norm2', 'mlp.fc1', 'mlp.fc2')
    count = len({key.split('.')[1] for key in trunk if key.startswith('blocks.')})
    modules = [f'blocks.{i}.{layer}' for i in range(count) for layer in layers] + ['norm']
    assert trunk.keys() == outer | {f'{m}.{leaf}' for m in modules for leaf in ('weight', 'bias')}


@pytest.mark.parametrize(
    ('key', 'own'),
    [
        ('ssf_scale_1', 'norm.adapter.scale'),
        ('patch_embed.ssf_shift_1', 'patch_embed.proj.adapter.shift'),
        ('blocks.11.ssf_scale_1', 'blocks.11.norm1.adapter.scale'),
        ('blocks.3.ssf_shift_2', 'blocks.3.norm2.adapter.shift'),
        ('blocks.3.attn.ssf_scale_1', 'blocks.3.attn.qkv.adapter.scale'),
        ('blocks.3.attn.ssf_scale_2', 'blocks.3.attn.proj.adapter.scale'),
        ('blocks.3.mlp.ssf_shift_1', 'blocks.3.mlp.fc1.adapter.shift'),
        ('blocks.3.mlp.ssf_shift_2', 'blocks.3.mlp.fc2.adapter.shift'),
    ],
)
def test_a_pair_of_ssf_is_named_by_the_layer_before_it(key, own):
    assert ssf_name(key, TRUNK) == TRUNK + own


def test_names_of_ssf_that_are_none_of_a_pair():
    assert ssf_name('patch_embed.ssf_scale_2', SWIN) == f'{SWIN}patch_embed.norm.adapter.scale'
    assert ssf_name('head.weight', TRUNK) == 'head.fc.weight'
    assert ssf_name('blocks.0.norm1.weight', TRUNK) is None


@pytest.mark.parametrize('key', ['layers.0.downsample.ssf_scale_1', 'blocks.0.ssf_shift_3'])
def test_a_pair_that_official_ssf_does_not_have_is_refused_by_key(key):
    with pytest.raises(UserError, match=rf'not an official SSF checkpoint: left over .*{key}'):
        ssf_name(key, SWIN)


def test_deep_prompts_of_a_vit_are_rows_and_so_are_those_of_each_stage_of_a_swin():
    _, weights = official(REFERENCE / 'vpt' / 'vit_deep_eval.json')
    rows = prompt_rows(weights)
    assert list(rows.values()) == [
        ['backbone.tuner.prompts.0'],
        ['backbone.tuner.prompts.1', 'backbone.tuner.prompts.2'],
    ]
    _, weights = official(REFERENCE / 'vpt' / 'swin_deep_eval.json')
    counts = [len(names) for names in prompt_rows(weights).values()]
    assert counts == [1, 1, 2, 2, 2]
    _, delta = split('vpt', weights)
    own = {key: value for key, value in delta.items() if 'prompts' in key}
    assert [value.shape[-1] for value in own.values()] == [16, 16, 32, 32, 64, 64, 128, 128]


@pytest.mark.parametrize('system', ['vpt', 'adaptformer'])
@pytest.mark.parametrize('change', ['missing', 'left over'])
def test_what_is_no_official_checkpoint_is_refused_by_key(system, change):
    path = next(path for path in CASES if path.parent.name == system and 'vit' in path.stem)
    _, weights = official(path)
    norm = next(key for key in weights if key.endswith(('.norm1.bias', '.attention_norm.bias')))
    if change == 'missing':
        del weights[norm]
    else:
        weights[f'{norm}_of_another'] = torch.ones(1)
    with pytest.raises(UserError, match=rf'{change} \[.*{norm}'):
        split(system, weights)
