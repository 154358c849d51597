"""The literal forms of tuners that papers compare with give the numbers of the official codes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hstpeft.oracle.case import Case
from hstpeft.oracle.literal import (
    adapter_plus,
    adaptformer,
    convpass,
    fact,
    mona,
    repadapter,
    ssf,
    vpt,
)
from hstpeft.oracle.literal.hst import is_buffer
from hstpeft.oracle.literal.module import OfficialModule
from tests.support.made_cases import name_stages, name_tokens
from tests.support.paths import REFERENCE

SYSTEMS = ('ssf', 'vpt', 'adaptformer', 'adapter_plus', 'convpass', 'mona', 'fact', 'repadapter')
CASES = [path for system in SYSTEMS for path in sorted((REFERENCE / system).glob('*.json'))]
# float32 is what the official features and gradients are computed in; a case says how far its
# features are from its own in float64.
LOGITS, GRADIENTS = 1e-12, 2e-5


def literal_of(case: Case) -> OfficialModule:
    a = case.arguments
    if case.meta['system'] == 'adaptformer':
        scale = 1.0 if a['ffn_adapter_scalar'] == 'learnable_scalar' else a['ffn_adapter_scalar']
        norm = a['ffn_adapter_layernorm_option']
        options = adaptformer.AdaptFormerOptions(a['heads'], a['ffn_option'], float(scale), norm)
        return adaptformer.LiteralAdaptFormer(case.weights, options)
    if case.meta['system'] == 'adapter_plus':
        scale = 1.0 if isinstance(a['scaling'], str) else a['scaling']
        options = adapter_plus.AdapterPlusOptions(
            a['heads'], a['config'], scale, a['act_layer'], a['train_ln']
        )
        return adapter_plus.LiteralAdapterPlus(case.weights, options)
    if case.meta['system'] == 'convpass':
        options = convpass.ConvpassOptions(a['heads'], a['scale'], a.get('window', 0))
        return convpass.LiteralConvpass(case.weights, options)
    if case.meta['system'] == 'mona':
        return mona.LiteralMona(case.weights, mona.MonaOptions(a['window']))
    if case.meta['system'] == 'fact':
        return fact.LiteralFacT(case.weights, fact.FacTOptions(a['heads'], a['scale']))
    if case.meta['system'] == 'repadapter':
        options = repadapter.RepAdapterOptions(a['heads'], a['scale'], a.get('window', 0))
        return repadapter.LiteralRepAdapter(case.weights, options)
    if case.meta['system'] == 'ssf':
        return ssf.LiteralSSF(case.weights, ssf.SSFOptions(a['heads'], a.get('window', 0)))
    return vpt.LiteralVPT(case.weights, vpt.VPTOptions(a['heads'], a.get('window', 0)))


@pytest.mark.parametrize('path', CASES, ids=lambda path: f'{path.parent.name}/{path.stem}')
def test_a_literal_form_gives_the_official_numbers(path: Path):
    case = Case(path, torch.float64)
    literal = literal_of(case).double()
    outputs, logits = literal(case.inputs['input'])
    off = np.abs(logits.detach().numpy() - case.arrays['logits_float64']).max()
    assert off < LOGITS
    named = (name_stages if 'depths' in case.arguments else name_tokens)(outputs)
    arrays = {k for k in case.arrays if k.startswith(('layer', 'encoded', 'stage'))}
    assert arrays == named.keys()
    for name, tokens in named.items():
        off = np.abs(tokens.detach().numpy() - case.arrays[name]).max()
        assert off < 1.1 * case.meta['float32_vs_float64']['outputs_max_abs'][name], name
    F.cross_entropy(logits, case.labels).backward()
    for index, key in enumerate(case.meta['gradient_keys']):
        gradient = getattr(literal, literal.names[key]).grad.numpy()
        size = case.arrays['grad_l2'][index]
        assert abs(np.linalg.norm(gradient) - size) < GRADIENTS * size, key
        if f'grad/{key}' in case.arrays:
            assert np.abs(gradient - case.arrays[f'grad/{key}']).max() < GRADIENTS * size, key


@pytest.mark.parametrize('path', CASES, ids=lambda path: f'{path.parent.name}/{path.stem}')
def test_its_names_shapes_and_trained_parameters_are_the_official_ones(path: Path):
    meta = json.loads(path.read_text())
    literal = literal_of(Case(path, torch.float64))
    trained = {key: trained for key, _, trained in meta['parameters']}
    free = {key: getattr(literal, name).requires_grad for key, name in literal.names.items()}
    assert {key: value for key, value in free.items() if not is_buffer(key)} == trained
    assert made_shapes(meta) == {
        key: tuple(shape)
        for key, shape, *kind in meta['parameters'] + meta['buffers']
        if kind != ['constructed']
    }


def made_shapes(meta: dict) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes that made cases of these arguments have."""
    a, system = meta['arguments'], meta['system']
    grid = (a['image size'] // a['patch size'],) * 2
    if system == 'adaptformer':
        return adaptformer.adaptformer_shapes(
            a['hidden size'], a['layers'], grid, a['patch size'], a['classes'], a['ffn_num'],
            a['mlp ratio'], a['ffn_adapter_layernorm_option'],
            a['ffn_adapter_scalar'] == 'learnable_scalar',
        )  # fmt: skip
    if system == 'adapter_plus':
        return adapter_plus.adapter_plus_shapes(
            a['hidden size'], a['layers'], grid, a['patch size'], a['classes'], a['dim'],
            a['mlp ratio'], a['qkv bias'], a['attn_adapter'], a['scaling'], a['norm_layer'],
            a['bias'], a['layer scale'],
        )  # fmt: skip
    if system == 'mona':
        return mona.mona_shapes(
            a['embed width'], a['depths'], a['heads'], a['patch size'], a['window'], a['classes'],
            a['bottleneck'], a['mlp ratio'], a['qkv bias'],
        )  # fmt: skip
    bypass = (a.get('dim'), a.get('method'), a.get('mlp ratio'))
    if 'depths' in a:
        size = (a['embed width'], a['depths'], a['heads'], grid, a['patch size'], a['window'])
        if system == 'convpass':
            return convpass.convpass_swin_shapes(*size, a['classes'], *bypass)
        if system == 'repadapter':
            own = (a['dim'], a['groups'], a['method'], a['mlp ratio'])
            return repadapter.repadapter_swin_shapes(*size, a['classes'], *own)
        if system == 'ssf':
            return ssf.ssf_swin_shapes(*size, a['classes'], a['mlp ratio'])
        return vpt.vpt_swin_shapes(*size, a['classes'], a['NUM_TOKENS'], a['DEEP'], a['mlp ratio'])
    size = (a['hidden size'], a['layers'], grid, a['patch size'], a['classes'])
    if system == 'convpass':
        return convpass.convpass_vit_shapes(*size, *bypass)
    if system == 'fact':
        return fact.fact_shapes(*size, a['kind'], a['rank'])
    if system == 'repadapter':
        own = (a['dim'], a['groups'], a['method'], a['mlp ratio'])
        return repadapter.repadapter_vit_shapes(*size, *own)
    if system == 'ssf':
        return ssf.ssf_vit_shapes(*size, a['mlp ratio'])
    return vpt.vpt_vit_shapes(*size, a['mlp size'], a['NUM_TOKENS'], a['DEEP'], a['PROJECT'])
