"""RepAdapter's parts: initial values, where it acts, its groups, merging."""

import pytest
import torch

from hstpeft.delta.merge import merge
from hstpeft.errors import UserError
from hstpeft.models import RepAdapterTuner
from hstpeft.models.tuners import FrozenTuner
from tests.support.families import FAMILIES, FROZEN, shake, timm_model, tuned
from tests.support.models import images

REPADAPTER = dict(type='hstpeft.RepAdapterTuner', scale=0.7)
IMAGE = images(2, 3, 32, 32)


def host(backbone):
    """Put a backbone into what `merge` expects of a host's model."""
    model = torch.nn.Module()
    model.backbone = backbone
    return model


@pytest.mark.parametrize('family', FAMILIES)
def test_it_starts_exactly_as_the_bare_trunk_in_training_too(family):
    bare = tuned(family, FROZEN, out_type='raw')(IMAGE)[0]
    backbone = tuned(family, REPADAPTER, out_type='raw')
    assert backbone(IMAGE)[0].equal(bare)
    assert backbone.train()(IMAGE)[0].equal(bare)
    for adapter in [*backbone.tuner.attention, *backbone.tuner.mlp]:
        dims, inner = adapter.up.weight.shape[0], len(adapter.down.weight)
        bound = (6 / (dims + inner)) ** 0.5  # Xavier
        assert 0.9 * bound < adapter.down.weight.abs().max() <= bound
        assert not any(p.any() for p in (adapter.down.bias, adapter.up.weight, adapter.up.bias))


@pytest.mark.parametrize(
    ('positions', 'groups', 'inner'), [(('attention', 'mlp'), 2, 8), (('mlp',), 1, 5)]
)
@pytest.mark.parametrize('family', FAMILIES)
def test_trainable_values_are_those_of_the_formula(family, positions, groups, inner):
    options = dict(positions=positions, num_groups=groups, adapter_dims=inner)
    backbone = tuned(family, {**REPADAPTER, **options})
    free = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    each = (inner * c + inner + c * inner // groups + c for c in backbone.trunk.block_dims)
    assert free == len(positions) * sum(each)


@pytest.mark.parametrize('groups', [1, 2, 4])
def test_a_group_reads_its_share_and_makes_its_share(groups):
    adapter = shake(tuned('vit', {**REPADAPTER, 'num_groups': groups})).tuner.attention[1]
    hidden = torch.randn(3, 8)
    got = adapter.up(hidden)
    inputs, outputs = hidden.chunk(groups, -1), got.chunk(groups, -1)
    weights, biases = adapter.up.weight.chunk(groups), adapter.up.bias.chunk(groups)
    for x, y, weight, bias in zip(inputs, outputs, weights, biases, strict=True):
        torch.testing.assert_close(y, x @ weight.t() + bias)


@pytest.mark.parametrize('family', FAMILIES)
def test_it_acts_on_what_attention_and_mlp_read(family):
    """In a Swin on the map of the image, before it is shifted and cut into windows."""
    backbone = shake(tuned(family, REPADAPTER))
    block, tuner, kept = backbone.trunk.block(1), backbone.tuner, {}
    block.norm1.register_forward_hook(lambda m, args, out: kept.update(normed=out))
    block.norm2.register_forward_hook(lambda m, args, out: kept.update(normed2=out))
    tuner.attention[1].register_forward_hook(lambda m, args, out: kept.update(read=args[0]))
    block.mlp.register_forward_hook(lambda m, args, out: kept.update(mlp=args[0]))
    backbone(IMAGE)
    assert kept['read'].equal(kept['normed'])
    adapter, x = tuner.mlp[1], kept['normed2']
    expected = x + 0.7 * adapter.up(adapter.down(x))
    torch.testing.assert_close(kept['mlp'], expected)


@pytest.mark.parametrize(
    ('dtype', 'limit'), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=['float32', 'float64']
)
@pytest.mark.parametrize('family', FAMILIES)
def test_the_merged_model_gives_the_same_tokens(family, dtype, limit):
    backbone = shake(tuned(family, REPADAPTER, out_type='raw'), size=0.05).to(dtype)
    image = IMAGE.to(dtype)
    before = backbone(image)[0]
    tensors, merged = merge(host(backbone))
    assert type(merged.backbone.tuner) is FrozenTuner
    torch.testing.assert_close(merged.backbone(image)[0], before, rtol=0, atol=limit)
    assert backbone(image)[0].equal(before), 'the model itself was changed'
    bare = tuned(family, FROZEN, out_type='raw').to(dtype)(image)[0]
    assert (before - bare).abs().max() > 0.1
    if family != 'hvt' and dtype == torch.float32:
        options = merged.backbone.trunk.timm_options()
        got = timm_model(family, tensors, **options).forward_features(image)
        torch.testing.assert_close(got, before, rtol=0, atol=limit)


def test_dropout_acts_in_training_only():
    backbone = shake(tuned('vit', {**REPADAPTER, 'drop_rate': 0.5}))
    still = shake(tuned('vit', {**REPADAPTER, 'drop_rate': 0.0}))
    assert backbone(IMAGE)[0].equal(still(IMAGE)[0])
    assert not backbone.train()(IMAGE)[0].equal(backbone(IMAGE)[0])
    assert still.train()(IMAGE)[0].equal(still.eval()(IMAGE)[0])


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(positions=['mpl']), "tuner.positions 'mpl' is unknown: did you mean 'mlp'"),
        (dict(adapter_dims=0), 'tuner.adapter_dims 0 must be at least 1'),
        (dict(num_groups=0), 'tuner.num_groups 0 must be at least 1'),
        (dict(num_groups=3), 'tuner.num_groups 3 must divide tuner.adapter_dims 8: use 1'),
        (dict(drop_rate=1.0), 'tuner.drop_rate 1.0 must be from 0 to below 1'),
    ],
)
def test_a_wrong_option_is_refused_by_name_and_value(options, words):
    with pytest.raises(UserError) as info:
        RepAdapterTuner(**options)
    assert words in str(info.value)


def test_groups_that_do_not_divide_the_width_are_refused():
    with pytest.raises(UserError, match=r"num_groups 3 must divide the trunk's width 32"):
        tuned('vit', dict(REPADAPTER, num_groups=3, adapter_dims=6))
