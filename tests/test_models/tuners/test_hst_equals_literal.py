"""HST computes its equations: forward, gradients and statistics, in float64."""

import json
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hstpeft.official import TRUNK, hst_names
from hstpeft.oracle.literal.hst import HSTOptions, LiteralHST, is_trainable
from hstpeft.oracle.literal.shapes import hst_shapes
from tests.support.models import ARCH, build, classifier_config, draw, images
from tests.support.paths import REFERENCE
from tests.support.tiers import first_fast

LIMIT = 1e-8
WIDE = (32, 48, 64, 72)
# width, depth, heads, grid, side widths and heads, side depths, taps, meta tokens, registers
CASES = {
    'one side block a trunk block': dict(depth=4, depths=(1, 1, 1, 1)),
    'two meta tokens': dict(depth=4, depths=(1, 1, 1, 1), meta=2),
    'three meta tokens': dict(depth=5, depths=(1, 1, 1, 2), meta=3),
    'depth that four does not divide': dict(depth=6, depths=(1, 2, 1, 2), meta=2),
    'taps spread over a deep trunk': dict(
        width=16, depth=24, depths=(3, 3, 3, 3), taps=tuple(range(1, 24, 2))
    ),
    'blocks behind the last tap': dict(depth=7, depths=(1, 1, 1, 1), taps=(0, 1, 3, 4)),
    'two side blocks read one tap': dict(depth=4, depths=(2, 1, 1, 1), taps=(0, 0, 1, 2, 3)),
    'many heads, plain attention': dict(
        depth=4, depths=(1, 1, 1, 1), dims=(8, 8, 12, 12), side_heads=(4, 8, 6, 12), meta=2
    ),
    'few heads, folded attention': dict(
        depth=4, depths=(1, 1, 1, 1), dims=WIDE, side_heads=(2, 4, 8, 12), meta=3
    ),
    'as many keys as channels': dict(
        depth=4, depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), side_heads=(4, 4, 2, 2), meta=1
    ),
    'wide image': dict(depth=4, depths=(1, 1, 1, 1), grid=(4, 7)),
    'tall image': dict(depth=4, depths=(1, 1, 1, 1), grid=(9, 3), meta=2),
    'registers': dict(depth=4, depths=(1, 1, 1, 1), registers=2, meta=2),
    'large patches': dict(depth=4, depths=(1, 1, 1, 1), patch=16, grid=(2, 3)),
    'narrow MLPs': dict(depth=4, depths=(1, 1, 1, 1), mlp_ratio=2.0),
}
DEFAULTS = dict(
    width=32, heads=2, grid=(4, 4), patch=8, dims=(8, 12, 12, 16), side_heads=(2, 2, 3, 4),
    taps=None, meta=1, registers=0, mlp_ratio=4.0,
)  # fmt: skip


def make_pair(case: Mapping, **rates: float) -> tuple[nn.Module, LiteralHST, dict[str, str]]:
    """Build product and literal with the same float64 weights; also own name -> official name."""
    c = {**DEFAULTS, **case}
    shapes = hst_shapes(
        c['width'], c['depth'], c['grid'], c['patch'], c['dims'], c['depths'], 5,
        c['meta'], c['mlp_ratio'], c['registers'],
    )  # fmt: skip
    last = (c['taps'] or range(sum(c['depths'])))[-1]
    official = {
        key: value
        for key, value in draw(shapes, seed=3).items()
        if not key.startswith('m_embeddings.') or int(key.split('.')[1]) <= last
    }
    options = HSTOptions(c['heads'], c['side_heads'], c['depths'], c['taps'], **rates)
    literal = LiteralHST(official, options).double()
    names = hst_names(c['depths'])
    names |= {f'm_embeddings.{i}': f'backbone.tuner.meta_tokens.{i}' for i in range(last + 1)}
    own_names = {own: key for key, own in names.items() if key in official}
    model = build(_config(c, trunk_part(official), rates), seed=None)
    state = model.state_dict()
    state.update({own: official[key] for own, key in own_names.items()})
    model.load_state_dict(state, strict=True)
    return model.double(), literal, own_names


def trunk_part(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parts = ('cls_token', 'reg_token', 'pos_embed', 'patch_embed', 'blocks', 'norm')
    return {key: value for key, value in official.items() if key.split('.')[0] in parts}


def _config(c: Mapping, trunk: Mapping[str, Tensor], rates: Mapping[str, float]) -> dict:
    options = dict(
        embed_dim=c['width'], depth=c['depth'], num_heads=c['heads'], patch_size=c['patch'],
        img_size=tuple(n * c['patch'] for n in c['grid']), reg_tokens=c['registers'],
        mlp_ratio=c['mlp_ratio'], weight_init='skip',
        drop_path_rate=rates.get('drop_path_rate', 0.0),
    )  # fmt: skip
    tuner = dict(
        type='hstpeft.HSTTuner', side_dims=c['dims'], side_heads=c['side_heads'],
        side_depths=c['depths'], tap_indices=c['taps'], num_meta_tokens=c['meta'],
        side_drop_path_rate=rates.get('side_drop_path_rate', 0.0), mlp_ratio=c['mlp_ratio'],
    )  # fmt: skip
    trunk_config = dict(type='hstpeft.ViTTrunk', arch=ARCH, arch_options=options, weights=trunk)
    backbone = dict(type='hstpeft.TunedBackbone', trunk=trunk_config, tuner=tuner)
    return classifier_config(backbone)


def run(model: nn.Module, image: Tensor) -> tuple[list[Tensor], Tensor]:
    maps = model.backbone(image)
    return list(maps), model.head(model.neck(maps))


def case_image(case: Mapping) -> Tensor:
    c = {**DEFAULTS, **case}
    return images(3, 3, *(n * c['patch'] for n in c['grid'])).double()


def assert_equal_run(case: Mapping, training: bool, **rates: float) -> None:
    model, literal, own_names = make_pair(case, **rates)
    image = case_image(case)
    labels = torch.tensor([0, 3, 4])
    results = []
    for net, forward in ((literal, literal), (model, lambda x: run(model, x))):
        net.train(training)
        torch.manual_seed(11)
        maps, logits = forward(image)
        loss = nn.functional.cross_entropy(logits, labels) + sum(x.square().mean() for x in maps)
        loss.backward()
        results.append([*maps, logits])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=LIMIT)
    official = {name: getattr(literal, own) for name, own in literal.names.items()}
    for own, parameter in model.named_parameters():
        name = own_names.get(own, own.removeprefix(TRUNK))
        expected = official[name]
        assert parameter.requires_grad == is_trainable(name) or expected.grad is None, own
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected.grad, rtol=0, atol=LIMIT, msg=own)
    for own, buffer in model.named_buffers():
        if 'running_' in own:
            expected = official[own_names[own]]
            torch.testing.assert_close(buffer, expected, rtol=0, atol=LIMIT, msg=own)


@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
@pytest.mark.parametrize('name', first_fast(CASES))
def test_forward_gradients_and_statistics_equal_the_equations(name, training):
    assert_equal_run(CASES[name], training)


@pytest.mark.parametrize(
    'rates',
    [
        dict(drop_path_rate=0.5),
        dict(side_drop_path_rate=0.5),
        dict(drop_path_rate=0.3, side_drop_path_rate=0.6),
    ],
    ids=lambda rates: ' and '.join(rates),
)
def test_drop_path_grows_linearly_in_trunk_and_side_network(rates):
    assert_equal_run(CASES['depth that four does not divide'], training=True, **rates)


def test_drop_path_does_nothing_in_eval():
    assert_equal_run(CASES['two meta tokens'], False, drop_path_rate=0.5, side_drop_path_rate=0.5)


@pytest.mark.parametrize('case', ['small_eval', 'small_train', 'dense_features_64x96'])
def test_the_equations_themselves_equal_the_official_code(case):
    meta = json.loads((REFERENCE / 'hst' / f'{case}.json').read_text())
    entries = meta['parameters'] + meta['buffers']
    official = draw({key: shape for key, shape, _ in entries}, meta['seed'])
    literal = LiteralHST(official, HSTOptions(num_heads=4)).double()
    trained = {key: trainable for key, _, trainable in meta['parameters']}
    assert {key: is_trainable(key) for key in trained} == trained
    image = images(*meta['inputs']['input'], seed=meta['seed']).double()
    maps, logits = literal.train(meta['mode'] == 'train')(image)
    arrays = np.load(REFERENCE / 'hst' / f'{case}.npz')
    assert np.abs(logits.detach().numpy() - arrays['logits_float64']).max() < 1e-12
    if meta['mode'] == 'eval':
        for stage, x in enumerate(maps, start=1):
            tokens = x.detach().flatten(2).transpose(1, 2).numpy()
            assert np.abs(tokens - arrays[f'stage{stage}']).max() < 1e-5
