"""SA2VP computes its equations on ViT and Swin: forward and gradients, in float64."""

import json
from collections.abc import Mapping

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from hstpeft.official.sa2vp import (
    frozen_copies,
    sa2vp_swin_names,
    sa2vp_vit_names,
    split_sa2vp,
)
from hstpeft.oracle import recipe
from hstpeft.oracle.literal.sa2vp import LiteralSA2VP, SA2VPOptions, is_trainable, sa2vp_vit_shapes
from hstpeft.oracle.literal.sa2vp_swin import LiteralSA2VPSwin, SA2VPSwinOptions, sa2vp_swin_shapes
from tests.support.models import draw, images
from tests.support.paths import REFERENCE
from tests.support.tiers import first_fast
from tools.reference_checks.classifier import classifier, fill, trainable

LIMIT = 1e-8
VIT = dict(
    width=32, depth=3, heads=2, grid=(4, 4), patch=8, mlp=48, inner=4, weight=0.1,
    exchange=(0, 2), deep=(2,), tied=True, accelerated=False, drop=0.0, batch=3,
)  # fmt: skip
CASES = {
    'the official pattern': dict(depth=12, exchange=(0, 4, 8), deep=(4, 8)),
    'independent copies': dict(tied=False),
    'one block': dict(depth=1, exchange=(0,), deep=(0,)),
    'deep prompt at the first block': dict(exchange=(0,), deep=(0, 1)),
    'the prompt never reads': dict(exchange=(), deep=(1,)),
    'the prompt always reads': dict(exchange=(0, 1, 2), deep=(0, 1, 2)),
    'the image reads first': dict(depth=4, exchange=(1, 3), deep=(0, 1, 2)),
    'no deep prompt': dict(deep=()),
    'a deep prompt where the image reads': dict(exchange=(0,), deep=(1, 2)),
    'wide image': dict(grid=(2, 5)),
    'tall image, independent copies': dict(grid=(6, 3), tied=False),
    'one row': dict(grid=(1, 6)),
    'one column of large patches': dict(grid=(4, 1), patch=16),
    'one patch': dict(grid=(1, 1)),
    'two by two': dict(grid=(2, 2)),
    'inner size one': dict(inner=1),
    'inner size beyond the width': dict(inner=40),
    'one head': dict(heads=1),
    'eight heads': dict(heads=8),
    'heavy mixing': dict(weight=1.5),
    'no mixing': dict(weight=0.0),
    'one image': dict(batch=1),
}
SWIN = dict(
    width=8, depths=(1, 2, 6, 2), heads=(1, 2, 2, 4), window=2, grid=(16, 16), patch=2, inner=3,
    weight=0.5, exchange=(0, 2), tied=True, drop_path=0.0, batch=2,
)  # fmt: skip
SWIN_CASES = {
    'tied': {},
    'independent copies': dict(tied=False),
    'eighteen blocks': dict(depths=(1, 1, 18, 1), exchange=(0, 6, 12)),
    'the prompt never reads': dict(exchange=()),
    'the prompt always reads': dict(depths=(1, 1, 2, 1), exchange=(0, 1)),
    'the image reads first': dict(exchange=(1, 5), weight=1.5),
    'a window as large as the third grid': dict(window=4),
    'a window larger than the last grids': dict(window=8),
    'three stages': dict(depths=(2, 1, 3), heads=(1, 2, 4), exchange=(0, 1)),
    'wide image': dict(depths=(1, 2, 3), heads=(1, 2, 4), grid=(16, 24), exchange=(0, 1)),
    'tall image': dict(depths=(1, 2, 3), heads=(1, 2, 4), grid=(24, 16), tied=False),
    'one image, inner size one': dict(batch=1, inner=1),
    'drop path': dict(drop_path=0.4),
}


def make_vit(case: Mapping) -> tuple[nn.Module, nn.Module, Mapping]:
    """Build product and literal with the same float64 weights; also official name -> own name."""
    c = {**VIT, **case}
    shapes = sa2vp_vit_shapes(
        c['width'], c['depth'], c['grid'], c['patch'], c['inner'], len(c['deep']), 5, c['mlp']
    )
    official = draw_official(shapes, c['depth'], c['tied'], swin=False)
    options = SA2VPOptions(
        c['heads'], c['grid'], c['accelerated'], c['exchange'], c['deep'], c['weight'], c['drop']
    )
    trunk, delta = split_sa2vp(official, c['tied'])
    arch_options = dict(
        embed_dim=c['width'], depth=c['depth'], num_heads=c['heads'], patch_size=c['patch'],
        img_size=tuple(n * c['patch'] for n in c['grid']), mlp_ratio=c['mlp'] / c['width'],
        pos_drop_rate=c['drop'], weight_init='skip',
    )  # fmt: skip
    model = classifier(
        dict(
            type='hstpeft.ViTTrunk', arch='vit_tiny_patch16_224', arch_options=arch_options,
            weights=trunk, mlp_drop_rate=c['drop'],
        ),
        dict(
            type='hstpeft.SA2VPTuner', inner_dims=c['inner'], mixing_weight=c['weight'],
            exchange_indices=c['exchange'], deep_prompt_indices=c['deep'],
            accelerated=c['accelerated'], tie_cross_attention=c['tied'], drop_rate=c['drop'],
        ),
        5, c['width'], head='hstpeft.TwoBranchClsHead',
    )  # fmt: skip
    names = sa2vp_vit_names(c['depth'], len(c['deep']), c['tied'])
    literal = LiteralSA2VP(official, options)
    return fill(model, delta).double(), literal.double(), names


def make_swin(case: Mapping) -> tuple[nn.Module, nn.Module, Mapping]:
    """Build product and literal with the same float64 weights; also official name -> own name."""
    c = {**SWIN, **case}
    shapes = sa2vp_swin_shapes(
        c['width'], c['depths'], c['heads'], c['window'], c['grid'], c['patch'], c['inner'], 5
    )
    official = draw_official(shapes, c['depths'][2], c['tied'], swin=True)
    options = SA2VPSwinOptions(c['heads'], c['window'], c['exchange'], c['weight'], c['drop_path'])
    trunk, delta = split_sa2vp(official, c['tied'])
    arch_options = dict(
        embed_dim=c['width'], depths=c['depths'], num_heads=c['heads'], window_size=c['window'],
        img_size=tuple(n * c['patch'] for n in c['grid']), patch_size=c['patch'],
        drop_path_rate=c['drop_path'],
    )  # fmt: skip
    model = classifier(
        dict(
            type='hstpeft.SwinTrunk', arch='swin_base_patch4_window7_224',
            arch_options=arch_options, weights=trunk,
        ),
        dict(
            type='hstpeft.SA2VPTuner', inner_dims=c['inner'], mixing_weight=c['weight'],
            exchange_indices=c['exchange'], tie_cross_attention=c['tied'],
        ),
        5, trunk['norm.weight'].numel(), head='hstpeft.TwoBranchClsHead',
    )  # fmt: skip
    literal = LiteralSA2VPSwin(official, options)
    names = sa2vp_swin_names(c['depths'], c['tied'])
    return fill(model, delta).double(), literal.double(), names


def draw_official(shapes: Mapping, depth: int, tied: bool, swin: bool) -> dict[str, Tensor]:
    official = draw(shapes, seed=3)
    if tied:
        pairs = frozen_copies(depth, swin)
        official.update({copy: official[own] for copy, own in pairs.items()})
    return official


def run(model: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(model.head.fc(branch) for branch in model.backbone(image)[-1])


def assert_equal_run(model: nn.Module, literal: nn.Module, names: Mapping, image: Tensor) -> None:
    results = []
    for forward in (literal, lambda x: run(model, x)):
        logits = torch.stack(forward(image))
        probe = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
        (probe * logits + logits.square()).sum().backward()
        results.append(logits)
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=LIMIT)
    got = {own: parameter.grad for own, parameter in trainable(model).items()}
    wanted = {name for name in literal.names if is_trainable(name)}
    assert {name for name, own in names.items() if own in got} == wanted
    assert len(got) == len(wanted)
    for name in wanted:
        expected = getattr(literal, literal.names[name]).grad
        torch.testing.assert_close(got[names[name]], expected, rtol=0, atol=LIMIT, msg=name)


def image_of(case: Mapping, defaults: Mapping) -> Tensor:
    c = {**defaults, **case}
    return images(c['batch'], 3, *(n * c['patch'] for n in c['grid'])).double()


@pytest.mark.parametrize('accelerated', [False, True], ids=['plain', 'accelerated'])
@pytest.mark.parametrize('name', first_fast(CASES))
def test_forward_and_gradients_equal_the_equations_on_a_vit(name, accelerated):
    case = {**CASES[name], 'accelerated': accelerated}
    assert_equal_run(*make_vit(case), image_of(case, VIT))


@pytest.mark.parametrize('name', SWIN_CASES)
def test_forward_and_gradients_equal_the_equations_on_a_swin(name, monkeypatch):
    model, literal, names = make_swin(SWIN_CASES[name])
    # Drop path without the dice: every sample stays and is scaled, by the rate of its block.
    monkeypatch.setattr(
        timm.layers.drop, 'drop_path', lambda x, rate, training, scale: x / (1 - rate)
    )
    assert_equal_run(model.train(), literal, names, image_of(SWIN_CASES[name], SWIN))


def fade(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Stand in for dropout: a pattern over tokens and channels, the same for every sample."""
    if not training or not p:
        return x
    pattern = torch.linspace(-1, 1, x[0].numel(), dtype=x.dtype).mul(50).sin().view_as(x[0])
    return x * (1 + p * pattern)


@pytest.mark.parametrize('accelerated', [False, True], ids=['plain', 'accelerated'])
def test_dropout_acts_where_the_equations_say(monkeypatch, accelerated):
    case = dict(drop=0.4, accelerated=accelerated, exchange=(1,), deep=(0, 2))
    monkeypatch.setattr(nn.functional, 'dropout', fade)
    model, literal, names = make_vit(case)
    assert_equal_run(model.train(), literal, names, image_of(case, VIT))


def test_dropout_does_nothing_in_eval():
    dropping, _, names = make_vit(dict(drop=0.4))
    without = make_vit({})[1]
    assert_equal_run(dropping.eval(), without, names, image_of({}, VIT))


def literal_of(case: str) -> tuple[nn.Module, dict, dict, Tensor]:
    """Build the literal form of a reference case, in float64."""
    meta = json.loads((REFERENCE / 'sa2vp' / f'{case}.json').read_text())
    source = meta.get('values_taken_from', {})
    shapes = {key: tuple(shape) for key, shape, _ in meta['parameters']}
    official = {
        key: torch.from_numpy(recipe.tensor(source.get(key, key), list(shape), meta['seed']))
        for key, shape in shapes.items()
    }
    a, image = meta['arguments'], images(*meta['inputs']['input'], seed=meta['seed']).double()
    if 'depths' in a:
        options = SA2VPSwinOptions(a['heads'], a['window'], mixing_weight=a['inter_weight'])
        grid = (a['image size'] // a['patch size'],) * 2
        made = sa2vp_swin_shapes(
            a['embed width'], a['depths'], a['heads'], a['window'], grid, a['patch size'],
            a['inter_dim'], a['classes'],
        )  # fmt: skip
        literal = LiteralSA2VPSwin(official, options)
    else:
        exchange, deep = (
            a['layers with base-to-prompt adaptation'], a['layers with a deep prompt'],
        )  # fmt: skip
        options = SA2VPOptions(
            a['heads'], tuple(a['grid']), a['version'] == 'accelerated', exchange, deep,
            a['inter_weight'],
        )  # fmt: skip
        made = sa2vp_vit_shapes(
            a['hidden size'], a['layers'], tuple(a['grid']), a['patch size'], a['inter_dim'],
            len(deep), a['classes'], a['mlp size'],
        )  # fmt: skip
        literal = LiteralSA2VP(official, options)
    assert made == shapes
    return literal.double(), meta, source, image


@pytest.mark.parametrize('case', sorted(path.stem for path in (REFERENCE / 'sa2vp').glob('*.npz')))
def test_the_equations_themselves_equal_the_official_code(case):
    literal, meta, source, image = literal_of(case)
    trained = {key: needs for key, _, needs in meta['parameters']}
    assert {key: is_trainable(key) for key in trained} == trained
    logits, prompt_logits = literal(image)
    arrays = np.load(REFERENCE / 'sa2vp' / f'{case}.npz')
    assert np.abs(logits.detach().numpy() - arrays['logits_float64']).max() < 1e-12
    assert np.abs(prompt_logits.detach().numpy() - arrays['prompt_logits']).max() < 1e-5
    swin = 'depths' in meta['arguments']
    pairs = frozen_copies(meta['arguments']['depths'][2] if swin else 12, swin)
    assert source == (pairs if case.endswith('_tied') else {})
