"""HVT computes its equations: forward and gradients, in float64."""

import json
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hstpeft.official import split_hvt
from hstpeft.official.hvt import hvt_names
from hstpeft.oracle.literal.hvt import HVTOptions, LiteralHVT, hvt_shapes
from tests.support.models import build, draw, images
from tests.support.paths import REFERENCE

LIMIT = 1e-8
DEFAULTS = dict(
    width=32, depth=4, heads=2, grid=(4, 4), patch=8, pool_width=2, kernel=3, stride=2,
    mlp_ratio=4.0, qkv_bias=True,
)  # fmt: skip
CASES = {
    'pools in the first block only': dict(pool_width=4),
    'pools in every block': dict(pool_width=1, grid=(6, 6)),
    'pools in every third block': dict(pool_width=3, depth=7),
    'pools nowhere': dict(pool_width=None),
    'pairs': dict(kernel=2),
    'windows that do not overlap': dict(stride=3),
    'windows apart from each other': dict(kernel=2, stride=4),
    'large windows': dict(kernel=7, stride=3, pool_width=4),
    'stride one': dict(stride=1),
    'one token left': dict(kernel=16, pool_width=4),
    'a remainder is dropped': dict(grid=(3, 4), stride=4, kernel=3, pool_width=4),
    'wide image': dict(grid=(2, 7)),
    'tall image of large patches': dict(grid=(5, 3), patch=16),
    'one head': dict(heads=1),
    'narrow MLPs, no query bias': dict(mlp_ratio=2.0, qkv_bias=False),
    'one block': dict(depth=1),
}


def make_pair(case: Mapping, drop_path_rate: float = 0.0) -> tuple[nn.Module, LiteralHVT]:
    """Build product and literal with the same float64 weights."""
    c = {**DEFAULTS, **case}
    shapes = hvt_shapes(
        c['width'], c['depth'], c['grid'], c['patch'], 5, c['pool_width'], c['kernel'],
        c['stride'], c['mlp_ratio'], c['qkv_bias'],
    )  # fmt: skip
    official = draw(shapes, seed=3)
    options = HVTOptions(c['heads'], c['kernel'], c['stride'], drop_path_rate)
    model = build(classifier(c, split_hvt(official)[0], drop_path_rate), seed=None)
    state = model.state_dict()
    state.update({own: official[hvt_names(own)] for own in state if own.startswith('head.')})
    model.load_state_dict(state, strict=True)
    return model.double(), LiteralHVT(official, options).double()


def classifier(c: Mapping, weights: Mapping[str, Tensor], drop_path_rate: float) -> dict:
    options = dict(
        embed_dim=c['width'], depth=c['depth'], num_heads=c['heads'], patch_size=c['patch'],
        img_size=tuple(n * c['patch'] for n in c['grid']), mlp_ratio=c['mlp_ratio'],
        qkv_bias=c['qkv_bias'], weight_init='skip', drop_path_rate=drop_path_rate,
    )  # fmt: skip
    trunk = dict(
        type='hstpeft.HVTTrunk', arch='hvt_s_1', arch_options=options, weights=weights,
        pool_width=c['pool_width'] or 0, pool_kernel_size=c['kernel'], pool_stride=c['stride'],
    )  # fmt: skip
    tuner = dict(type='hstpeft.FullTuner')
    return dict(
        type='ImageClassifier',
        backbone=dict(type='hstpeft.TunedBackbone', trunk=trunk, tuner=tuner),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=c['width']),
    )


def run(model: nn.Module, image: Tensor) -> tuple[list[Tensor], Tensor]:
    """Run the product; all block outputs come from taps, the last one's from the norm's input."""
    trunk, tuner = model.backbone.trunk, model.backbone.tuner
    taps = trunk.run(trunk.embed(image)[0], tuner, range(trunk.num_layers))
    feature = trunk.pool(trunk.final_norm(taps[trunk.num_layers - 1]))
    return [*taps.values(), feature], model.head((feature,))


def assert_equal_run(case: Mapping, training: bool, drop_path_rate: float = 0.0) -> None:
    c = {**DEFAULTS, **case}
    model, literal = make_pair(case, drop_path_rate)
    image = images(3, 3, *(n * c['patch'] for n in c['grid'])).double()
    outputs, feature, logits = literal_run(literal.train(training), image)
    torch.manual_seed(11)
    got, got_logits = run(model.train(training), image)
    for expected, value in zip([*outputs, feature, logits], [*got, got_logits], strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=LIMIT)
    assert model.backbone.trunk.sequence_lengths == tuple(x.shape[1] for x in outputs)
    for found in ((outputs, logits), (got[:-1], got_logits)):
        loss(*found).backward()
    seen = set()
    for own, parameter in model.named_parameters():
        expected = getattr(literal, literal.names[hvt_names(own)])
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=0, atol=LIMIT, msg=own)
        seen.add(hvt_names(own))
    assert seen == literal.names.keys()


def literal_run(literal: LiteralHVT, image: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    torch.manual_seed(11)
    return literal(image)


def loss(outputs: list[Tensor], logits: Tensor) -> Tensor:
    own = nn.functional.cross_entropy(logits, torch.tensor([0, 3, 4]))
    return own + sum(x.square().mean() for x in outputs)


@pytest.mark.parametrize('name', CASES)
def test_forward_and_gradients_equal_the_equations(name):
    assert_equal_run(CASES[name], training=True)


def test_the_backbone_gives_the_feature_of_the_equations():
    model, literal = make_pair(CASES['pools in every third block'])
    image = images(2, 3, 32, 32).double()
    torch.testing.assert_close(model.backbone(image)[-1], literal(image)[1], rtol=0, atol=LIMIT)


def test_drop_path_grows_linearly_and_does_nothing_in_eval():
    assert_equal_run(CASES['pools in every third block'], training=True, drop_path_rate=0.5)
    assert_equal_run(CASES['pools in every third block'], training=False, drop_path_rate=0.5)


@pytest.mark.parametrize('case', ['pool_every3_train', 'pool_every12_eval'])
def test_the_equations_themselves_equal_the_official_code(case):
    meta = json.loads((REFERENCE / 'hvt' / f'{case}.json').read_text())
    shapes = {key: tuple(shape) for key, shape, _ in meta['parameters']}
    a = meta['arguments']
    grid = (a['image size'] // a['patch size'],) * 2
    assert shapes == hvt_shapes(
        a['width'], a['blocks'], grid, a['patch size'], a['classes'], a['pool_block_width']
    )
    literal = LiteralHVT(draw(shapes, meta['seed']), HVTOptions(a['heads'])).double()
    image = images(*meta['inputs']['input'], seed=meta['seed']).double()
    outputs, feature, logits = literal(image)
    arrays = np.load(REFERENCE / 'hvt' / f'{case}.npz')
    assert [x.shape[1] for x in outputs] == arrays['sequence_lengths'].tolist()
    assert np.abs(logits.detach().numpy() - arrays['logits_float64']).max() < 1e-12
    assert np.abs(feature.detach().numpy() - arrays['feature']).max() < 1e-5
