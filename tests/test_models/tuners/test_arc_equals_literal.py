"""ARC computes its equations on ViT and Swin: forward and gradients, in float64."""

import json

import numpy as np
import pytest
import torch

from hstpeft.oracle.literal.arc import ARCOptions, LiteralARC, is_trainable
from tests.support.arc_pair import case_images, gradients, loss_of, make_pair, run
from tests.support.models import draw, images
from tests.support.paths import REFERENCE
from tests.support.tiers import first_fast

LIMIT = 1e-8
ATTENTION, MLP = ('attention',), ('mlp',)
CASES = {
    'ViT': dict(depth=3),
    'ViT, attention': dict(depth=3, positions=ATTENTION),
    'ViT, MLP': dict(depth=3, positions=MLP),
    'ViT, one layer': dict(depth=1),
    'deep and narrow ViT': dict(depth=7, width=16, heads=4, dims=3),
    'ViT, adapter of one column': dict(depth=3, dims=1),
    'ViT, adapter wider than the trunk': dict(depth=2, dims=40),
    'ViT, wide image and large patches': dict(depth=2, grid=(2, 5), patch=16),
    'ViT, dropout': dict(depth=3, drop_rate=0.3),
    'Swin': dict(depths=(2, 2)),
    'Swin, attention': dict(depths=(2, 2), positions=ATTENTION),
    'Swin, MLP': dict(depths=(2, 2), positions=MLP),
    'Swin, odd depths': dict(depths=(1, 3), window=2),
    'Swin, window of odd side': dict(depths=(2, 2), grid=(12, 12), window=3),
    'Swin, large window': dict(depths=(2, 2, 2), heads=(1, 2, 4), grid=(24, 24), window=6),
    'Swin, window that covers the last stage': dict(
        depths=(2, 2, 2), heads=(2, 2, 4), grid=(16, 16), window=4
    ),
    'Swin, window larger than the last grid': dict(
        depths=(2, 2, 2), heads=(2, 2, 2), grid=(12, 12), window=6
    ),
    'Swin, wide image': dict(depths=(2, 2), grid=(8, 20), window=2),
    'Swin, tall image': dict(depths=(2, 2), grid=(18, 12), window=3, patch=4),
    'Swin, four stages': dict(
        depths=(1, 1, 2, 1), heads=(1, 1, 2, 2), grid=(16, 16), window=2, width=8, patch=1
    ),
    'Swin, a window as high as the grid': dict(depths=(2,), heads=(2,), grid=(4, 8), window=4),
    'Swin, dropout': dict(depths=(2, 2), drop_rate=0.3),
    'Swin, dropout and drop path': dict(depths=(2, 3), drop_rate=0.5, drop_path_rate=0.4),
}


@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
@pytest.mark.parametrize('name', first_fast(CASES))
def test_forward_and_gradients_equal_the_equations(name, training):
    model, literal, names = make_pair(CASES[name])
    image, results = case_images(CASES[name]), []
    for net, forward in ((literal, literal), (model, lambda x: run(model, x))):
        net.train(training)
        torch.manual_seed(11)
        outputs, logits = forward(image)
        loss_of(outputs, logits).backward()
        results.append([*outputs, logits])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=LIMIT)
    for key, (got, expected) in gradients(model, literal, names).items():
        torch.testing.assert_close(got, expected, rtol=0, atol=LIMIT, msg=key)


def test_the_backbone_gives_the_class_token_of_a_vit_and_the_mean_of_a_swin():
    for case in (CASES['ViT'], CASES['Swin']):
        model, literal, _ = make_pair(case)
        image = case_images(case)
        got = model(image, mode='tensor')
        torch.testing.assert_close(got, literal(image)[1], rtol=0, atol=LIMIT)


def test_dropout_rates_matter_in_training_only():
    model, literal, _ = make_pair(CASES['Swin, dropout and drop path'])
    image = case_images(CASES['Swin, dropout and drop path'])
    with torch.no_grad():
        still = literal.eval()(image)[1]
        torch.testing.assert_close(run(model.eval(), image)[1], still, rtol=0, atol=LIMIT)
        assert (run(model.train(), image)[1] - still).abs().max() > 1e-2


@pytest.mark.parametrize('size', [(16, 32), (24, 16), (40, 48)])
def test_an_image_of_another_size_equals_the_equations_where_windows_divide_its_grid(size):
    case = dict(depths=(2, 2), window=2, grid=(8, 8), patch=2)
    model, literal, _ = make_pair(case)
    image = images(2, 3, *size).double()
    torch.testing.assert_close(run(model, image)[1], literal(image)[1], rtol=0, atol=LIMIT)


@pytest.mark.parametrize('case', ['vit_arc_eval', 'vit_arc_att_eval', 'swin_arc_eval'])
def test_the_equations_themselves_equal_the_official_code(case):
    meta = json.loads((REFERENCE / 'arc' / f'{case}.json').read_text())
    official = draw({key: shape for key, shape, _ in meta['parameters']}, meta['seed'])
    trained = {key: trainable for key, _, trainable in meta['parameters']}
    assert {key: is_trainable(key) for key in trained} == trained
    arguments = meta['arguments']
    literal = LiteralARC(official, ARCOptions(arguments['heads'], arguments.get('window', 0)))
    outputs, logits = literal.double()(images(*meta['inputs']['input'], seed=meta['seed']).double())
    arrays = np.load(REFERENCE / 'arc' / f'{case}.npz')
    assert np.abs(logits.detach().numpy() - arrays['logits_float64']).max() < 1e-12
    # A stage ends with its patch merging there, before it here: only the last one is comparable.
    places = {'layer0': 0, 'encoded': -1} if 'layer0' in arrays else {'stage1': -1}
    for name, place in places.items():
        assert np.abs(outputs[place].detach().numpy() - arrays[name]).max() < 1e-5
