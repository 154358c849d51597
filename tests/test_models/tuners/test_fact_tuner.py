"""FacT's parts: initial values, the shared factors, its cores, which trunks it cuts, merging."""

import copy
import pickle

import pytest
import torch

from hstpeft.delta.merge import merge
from hstpeft.errors import UserError
from hstpeft.models import FacTTuner
from hstpeft.models.trunks.widths import cut_layers
from hstpeft.models.tuners import FrozenTuner
from hstpeft.models.tuners.factors import TensorTrain, Tucker
from tests.support.families import FROZEN, build_trunk, shake, timm_model, tuned
from tests.support.models import images

FORMS, FAMILIES = ('tt', 'tk'), ('vit', 'hvt')
IMAGE = images(2, 3, 32, 32)
PLAIN = {'qkv': (1, 3), 'proj': (1, 1), 'fc1': (1, 4), 'fc2': (4, 1)}


def fact(form, **options):
    return dict(type='hstpeft.FacTTuner', form=form, rank=3, scale=0.7, **options)


def host(backbone):
    """Put a backbone into what `merge` expects of a host's model."""
    model = torch.nn.Module()
    model.backbone = backbone
    return model


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('family', FAMILIES)
def test_it_starts_exactly_as_the_bare_trunk_in_training_too(family, form):
    bare = tuned(family, FROZEN, out_type='raw')(IMAGE)[0]
    backbone = tuned(family, fact(form), out_type='raw')
    assert backbone(IMAGE)[0].equal(bare)
    assert backbone.train()(IMAGE)[0].equal(bare)
    values = dict(backbone.tuner.factors.named_parameters())
    assert not values.pop('up.weight').any()
    for name, value in values.items():
        fans = torch.nn.init._calculate_fan_in_and_fan_out(value)
        # Of tensors Xavier's, of Linears PyTorch's.
        bound = (6 / sum(fans)) ** 0.5 if name in ('slices', 'mixing') else fans[0] ** -0.5
        assert 0.5 * bound < value.abs().max() <= bound, name


@pytest.mark.parametrize('ratio', [1, 4])
@pytest.mark.parametrize('form', FORMS)
def test_trainable_values_are_those_of_the_formula(form, ratio):
    options = dict(arch_options=dict(mlp_ratio=ratio))
    backbone = tuned('vit', fact(form), trunk=options)
    free = {n: p.numel() for n, p in backbone.named_parameters() if p.requires_grad}
    cores = 4 * (4 + 2 * ratio)  # of four blocks
    own = {'tt': cores * 3**2, 'tk': 3**3 + cores * 3}[form]
    assert sum(free.values()) == 2 * 32 * 3 + own
    assert all(name.startswith('tuner.factors.') for name in free)


@pytest.mark.parametrize('form', FORMS)
def test_a_state_dict_has_the_factors_once_and_a_copy_its_own(form):
    backbone = shake(tuned('vit', fact(form)))
    assert all(n.startswith('tuner.') for n in backbone.state_dict() if n != '_extra_state')
    before = backbone(IMAGE)[0]
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        for index, name in ((0, 'qkv'), (3, 'fc2')):
            (shared,) = other.trunk.layer(index, name).adapter.shared
            assert shared is other.tuner.factors is not backbone.tuner.factors
        torch.nn.init.zeros_(other.tuner.factors.up.weight)
        assert other(IMAGE)[0].equal(tuned('vit', FROZEN)(IMAGE)[0])
    assert backbone(IMAGE)[0].equal(before)


@pytest.mark.parametrize('kind', [TensorTrain, Tucker])
@pytest.mark.parametrize('name', PLAIN)
def test_the_update_of_a_layer_is_its_matrix(kind, name):
    factors = kind(6, 3, 0.1, [PLAIN] * 2).double().eval()
    torch.nn.init.normal_(factors.up.weight)
    into, out = PLAIN[name]
    x = torch.randn(2, 5, into * 6, dtype=torch.float64)
    matrix = factors.matrix(1, name)
    assert matrix.shape == (out * 6, into * 6)
    torch.testing.assert_close(factors(x, 1, name), x @ matrix.t())
    assert torch.linalg.matrix_rank(matrix) <= 3


@pytest.mark.parametrize('kind', [TensorTrain, Tucker])
def test_queries_keys_and_values_may_be_linears_of_their_own(kind):
    fused = kind(6, 3, 0.0, [PLAIN] * 2)
    apart = kind(6, 3, 0.0, [{**dict.fromkeys('qkv', (1, 1)), **PLAIN}] * 2)
    del apart.pieces[1]['qkv']
    apart = kind(6, 3, 0.0, apart.pieces)
    state = {}
    for key, value in fused.state_dict().items():
        if key.endswith('qkv.weight'):
            parts = zip('qkv', value.chunk(3), strict=True)
            state |= {key.replace('qkv', part): third for part, third in parts}
        else:
            state[key] = value
    apart.load_state_dict(state, strict=True)
    torch.nn.init.normal_(fused.up.weight)
    apart.up.weight = fused.up.weight
    x = torch.randn(2, 6)
    parts = torch.cat([apart(x, 1, part) for part in 'qkv'], dim=-1)
    torch.testing.assert_close(parts, fused(x, 1, 'qkv'))
    torch.testing.assert_close(apart(x, 1, 'fc1'), fused(x, 1, 'fc1'))


@pytest.mark.parametrize(
    ('dtype', 'limit'), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=['float32', 'float64']
)
@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('family', FAMILIES)
def test_the_merged_model_gives_the_same_tokens(family, form, dtype, limit):
    backbone = shake(tuned(family, fact(form), out_type='raw'), size=0.3).to(dtype)
    image = IMAGE.to(dtype)
    before = backbone(image)[0]
    tensors, merged = merge(host(backbone))
    assert type(merged.backbone.tuner) is FrozenTuner
    torch.testing.assert_close(merged.backbone(image)[0], before, rtol=0, atol=limit)
    assert backbone(image)[0].equal(before), 'the model itself was changed'
    bare = tuned(family, FROZEN, out_type='raw').to(dtype)(image)[0]
    assert (before - bare).abs().max() > 0.1
    if family == 'vit' and dtype == torch.float32:
        got = timm_model(family, tensors).forward_features(image)
        torch.testing.assert_close(got, before, rtol=0, atol=limit)


def test_dropout_acts_in_training_only():
    backbone = shake(tuned('vit', fact('tt', drop_rate=0.5)))
    still = shake(tuned('vit', fact('tt', drop_rate=0.0)))
    assert backbone(IMAGE)[0].equal(still(IMAGE)[0])
    assert not backbone.train()(IMAGE)[0].equal(backbone(IMAGE)[0])
    assert still.train()(IMAGE)[0].equal(still.eval()(IMAGE)[0])


def test_layers_of_a_plain_block_are_cut_in_order():
    cut = cut_layers(build_trunk('vit'), 32, 2)
    assert list(cut.items()) == list(PLAIN.items())


@pytest.mark.parametrize('ratio', [2.7, 0.5])
def test_an_mlp_that_is_no_whole_number_of_widths_is_refused(ratio):
    with pytest.raises(UserError, match=r'needs Linears of whole multiples .*whole_widths'):
        tuned('vit', fact('tt'), trunk=dict(arch_options=dict(mlp_ratio=ratio)))


def test_a_gated_mlp_is_refused():
    arch = dict(
        arch='aimv2_large_patch14_224',
        arch_options=dict(embed_dim=32, depth=1, num_heads=2, img_size=28, patch_size=14),
    )
    with pytest.raises(UserError, match=r'FacTTuner is not defined for a ViTTrunk: .* no gates'):
        tuned('vit', fact('tk'), trunk=arch)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(form='tu'), "tuner.form 'tu' is unknown"),
        (dict(rank=0), 'tuner.rank 0 must be at least 1'),
        (dict(drop_rate=1.0), 'tuner.drop_rate 1.0 must be from 0 to below 1'),
    ],
)
def test_a_wrong_option_is_refused_by_name_and_value(options, words):
    with pytest.raises(UserError) as info:
        FacTTuner(**options)
    assert words in str(info.value)
