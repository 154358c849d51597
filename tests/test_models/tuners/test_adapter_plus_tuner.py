"""Adapter+ and its kin: initial values, where each form acts, drop path, what else is trained."""

import pytest
import torch
from torch.nn import functional as F

from hstpeft.errors import UserError
from hstpeft.models import AdapterPlusTuner
from hstpeft.models.tuners.adapter_plus import FORMS
from tests.support.families import FAMILIES, FROZEN, shake, tuned
from tests.support.models import images

PLUS = dict(type='hstpeft.AdapterPlusTuner', adapter_dims=5)


def options_of(form, **options):
    return dict(PLUS, form=form, **options)


def count(backbone):
    return sum(p.numel() for p in backbone.parameters() if p.requires_grad)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('family', FAMILIES)
def test_with_zeros_it_starts_exactly_as_the_bare_trunk_in_training_too(family, form):
    image, first = images(2, 3, 32, 32), dict(out_type='raw', out_indices=(1,))
    bare = tuned(family, FROZEN, **first)(image)[0]
    backbone = tuned(family, options_of(form, init='lora'), **first)
    assert backbone(image)[0].equal(bare)
    assert backbone.train()(image)[0].equal(bare)
    assert not shake(backbone.eval())(image)[0].equal(bare)


@pytest.mark.parametrize(('init', 'most'), [('houlsby', 1e-2), ('bert', 4e-2)])
def test_with_small_numbers_it_starts_nearly_as_the_bare_trunk(init, most):
    image = images(2, 3, 32, 32)
    bare = tuned('vit', FROZEN)(image)[0]
    off = (tuned('vit', options_of('post', init=init))(image)[0] - bare).norm() / bare.norm()
    assert 0 < off < most


def test_new_parameters_start_as_officially():
    width, inner = 32, 400
    for init, deviation, most in (('houlsby', 0.01, 0.02), ('bert', 0.02, None)):
        tuner = tuned('vit', dict(PLUS, init=init, adapter_norm='in', adapter_dims=inner)).tuner
        for linear in (tuner.adapters[0].down, tuner.adapters[0].up):
            largest = linear.weight.abs().max()
            # Cut off at two deviations, a normal distribution keeps 0.88 of its own.
            expected = deviation if most is None else 0.88 * deviation
            assert linear.weight.std().item() == pytest.approx(expected, rel=0.05)
            assert largest > 0.06 if most is None else 0.95 * most < largest <= most
            assert not linear.bias.any()
        assert tuner.adapters[0].norm_in.eps == 1e-6
        assert tuner.adapters[0].scale.equal(torch.ones(width))
    options = dict(PLUS, init='lora', scale='learned', adapter_dims=inner)
    adapter = tuned('vit', options).tuner.adapters[0]
    bound = (1 / width) ** 0.5  # of weight and bias: Kaiming uniform with a = sqrt(5)
    for parameter in adapter.down.parameters():
        assert 0.95 * bound < parameter.abs().max() <= bound
    assert not any(parameter.any() for parameter in adapter.up.parameters())
    assert adapter.scale.tolist() == [1.0]


def adapt(adapter, tokens):
    """Compute the equation of an adapter."""
    if hasattr(adapter.norm_in, 'weight'):
        norm = adapter.norm_in
        tokens = F.layer_norm(tokens, tokens.shape[-1:], norm.weight, norm.bias, 1e-6)
    return adapter.scale * adapter.up(F.gelu(adapter.down(tokens)))


def stream(backbone, image):
    """Return stream and branches of the last block as the trunk's modules see them."""
    block, kept = backbone.trunk.block(backbone.trunk.num_layers - 1), {}
    block.norm1.register_forward_hook(lambda m, args, out: kept.update(x=args[0]))
    block.drop_path1.register_forward_hook(lambda m, args, out: kept.update(a=out))
    block.norm2.register_forward_hook(lambda m, args, out: kept.update(y=args[0]))
    block.drop_path2.register_forward_hook(lambda m, args, out: kept.update(m=out))
    kept['after'] = backbone(image)[0]
    return kept


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('family', FAMILIES)
def test_each_form_is_its_equation_with_layer_scale_inside(family, form):
    trunk = dict(arch_options=dict(init_values=0.7) if family == 'vit' else {})
    trunk['weights'] = None
    options = options_of(form, adapter_norm='in' if form == 'pfeiffer' else 'none')
    index = 1 if family == 'hvt' else 0  # its first block pools
    where = dict(out_type='raw', out_indices=(index,), trunk=trunk)
    backbone = shake(tuned(family, options, **where))
    kept, adapter = stream(backbone, images(2, 3, 32, 32)), backbone.tuner.adapters[index]
    x, a, y, m = (kept[name] for name in 'xaym')
    attention = adapt(backbone.tuner.attn_adapters[index], a) if form == 'houlsby' else 0
    before = (x + a) + (adapt(adapter, x + a) if form == 'pre' else attention)
    torch.testing.assert_close(y, before)
    read = {'parallel': y, 'intermediate': m, 'houlsby': m, 'post': y + m, 'pfeiffer': y + m}
    expected = y + m + (adapt(adapter, read[form]) if form in read else 0)
    torch.testing.assert_close(kept['after'], expected)


@pytest.mark.parametrize(
    ('options', 'per_block'),
    [
        ({}, 2 * 32 * 5 + 5 + 2 * 32),
        (dict(scale=0.5), 2 * 32 * 5 + 5 + 32),
        (dict(scale='learned'), 2 * 32 * 5 + 5 + 32 + 1),
        (dict(bias=False), 2 * 32 * 5 + 32),
        (dict(adapter_norm='in'), 2 * 32 * 5 + 5 + 4 * 32),
        (dict(form='houlsby'), 2 * (2 * 32 * 5 + 5 + 2 * 32)),
        (dict(train_norms=True), 2 * 32 * 5 + 5 + 2 * 32 + 4 * 32),
    ],
)
def test_counts_are_those_of_the_docstring(options, per_block):
    last_norm = 2 * 32 if 'train_norms' in options else 0
    assert count(tuned('vit', {**PLUS, **options})) == 4 * per_block + last_norm


@pytest.mark.parametrize('family', FAMILIES)
def test_every_norm_of_the_trunk_that_runs_is_trained_and_no_other_parameter_of_it(family):
    backbone = tuned(family, dict(PLUS, train_norms=True), out_type='raw', out_indices=(2,))
    free = {name for name, p in backbone.trunk.named_parameters() if p.requires_grad}
    norms = {
        f'{name}.{leaf}'
        for name, module in backbone.trunk.named_modules()
        if isinstance(module, torch.nn.LayerNorm)
        for leaf in ('weight', 'bias')
    }
    idle = {id(p) for module in backbone.trunk.idle_modules() for p in module.parameters()}
    running = {n for n, p in backbone.trunk.named_parameters() if id(p) not in idle}
    assert free == norms & running < norms
    backbone(images(2, 3, 32, 32))[0].square().sum().backward()
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)


def test_norms_are_not_trained_in_a_trunk_of_another_dtype():
    with pytest.raises(
        UserError, match=r"trunk\.dtype 'bfloat16' .* tuner\.train_norms True: .*--bf16"
    ):
        tuned('vit', dict(PLUS, train_norms=True), trunk=dict(dtype='bfloat16'))


def test_post_of_an_hvt_reads_what_its_pooling_leaves():
    first = dict(out_type='raw', out_indices=(0,))
    backbone = shake(tuned('hvt', PLUS, **first))
    pooled = tuned('hvt', FROZEN, **first)(image := images(2, 3, 32, 32))[0]
    expected = pooled + adapt(backbone.tuner.adapters[0], pooled)
    torch.testing.assert_close(backbone(image)[0], expected)


def test_drop_path_leaves_an_adapter_out_for_an_image_and_in_training_only():
    first = dict(out_type='raw', out_indices=(0,))
    backbone = shake(tuned('vit', options_of('post', drop_path_rate=0.5), **first))
    bare = tuned('vit', FROZEN, **first)
    image = images(64, 3, 32, 32)
    with torch.no_grad():
        without = bare(image)[0]
        added = (backbone(image)[0] - without).flatten(1)
        drawn = (backbone.train()(image)[0] - without).flatten(1)
    dropped = drawn.norm(dim=1) < 1e-5
    assert 16 < dropped.sum() < 48
    torch.testing.assert_close(drawn[~dropped], 2 * added[~dropped], rtol=1e-4, atol=1e-4)


def test_dropout_acts_in_training_only():
    options = options_of('post', drop_rate=0.5, drop_path_rate=0.0)
    backbone, image = shake(tuned('vit', options, out_type='raw')), images(2, 3, 32, 32)
    assert backbone(image)[0].equal(backbone(image)[0])
    assert not backbone.train()(image)[0].equal(backbone(image)[0])


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(form='pfeifer'), "tuner.form 'pfeifer' is unknown: did you mean 'pfeiffer'?"),
        (dict(scale='chanel'), "tuner.scale 'chanel' is unknown: did you mean 'channel'?"),
        (dict(adapter_norm='out'), "tuner.adapter_norm 'out' is unknown"),
        (dict(init='zero'), "tuner.init 'zero' is unknown"),
        (dict(adapter_dims=0), 'tuner.adapter_dims 0 must be at least 1'),
        (dict(drop_rate=-0.1), 'tuner.drop_rate -0.1 must be from 0 to below 1'),
        (dict(drop_path_rate=1.0), 'tuner.drop_path_rate 1.0 must be from 0 to below 1'),
    ],
)
def test_a_wrong_option_is_refused_by_name_and_value(options, words):
    with pytest.raises(UserError) as info:
        AdapterPlusTuner(**options)
    assert words in str(info.value)
