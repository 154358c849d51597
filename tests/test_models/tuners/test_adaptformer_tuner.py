"""AdaptFormer's parts: initial values, where it acts, its prompts, what else is trained."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from hstpeft.errors import UserError
from hstpeft.models import AdaptFormerTuner
from tests.support.families import FROZEN, each_family, shake, tuned
from tests.support.models import images

ADAPTFORMER = dict(type='hstpeft.AdaptFormerTuner', adapter_dims=5)
FORMS, NORMS = ('parallel', 'sequential'), ('none', 'in', 'out')
OPTIONS = [
    dict(form=form, adapter_norm=norm, scale=scale)
    for form, norm, scale in itertools.product(FORMS, NORMS, (0.1, 'learned'))
]


@pytest.mark.parametrize('options', OPTIONS, ids=lambda o: '-'.join(map(str, o.values())))
@each_family
def test_it_starts_exactly_as_the_bare_trunk_in_training_too(family, options):
    image = images(2, 3, 32, 32)
    bare = tuned(family, FROZEN, out_type='raw')(image)[0]
    backbone = tuned(family, {**ADAPTFORMER, **options}, out_type='raw')
    assert backbone(image)[0].equal(bare)
    assert backbone.train()(image)[0].equal(bare)
    assert not shake(backbone.eval())(image)[0].equal(bare)


def test_new_parameters_start_as_officially():
    options = dict(adapter_dims=50, scale='learned', num_prompt_tokens=3, adapter_norm='in')
    tuner = tuned('vit', {**ADAPTFORMER, **options}).tuner
    assert len(tuner.adapters) == len(tuner.prompts) == 4
    for adapter in tuner.adapters:
        bound = (1 / 32) ** 0.5  # Kaiming uniform with a = sqrt(5): sqrt(6 / ((1 + 5) C))
        assert 0.95 * bound < adapter.down.weight.abs().max() <= bound
        assert not any(p.any() for p in (adapter.down.bias, adapter.up.weight, adapter.up.bias))
        assert adapter.scale.tolist() == [1.0]
        assert adapter.norm_in.eps == 1e-5
    for prompt in tuner.prompts:
        assert prompt.shape == (1, 3, 32)
        bound = (6 / (32 * (3 + 1))) ** 0.5  # Xavier, whose fan in counts tokens and width
        assert 0.9 * bound < prompt.abs().max() <= bound


def stream(backbone, image):
    """Return what a block's MLP norm reads, what its MLP gives, and what leaves it, of block 1."""
    block, kept = backbone.trunk.block(1), {}
    block.norm2.register_forward_hook(lambda m, args, out: kept.update(tokens=args[0]))
    # Behind layer scale, if the family has one.
    block.drop_path2.register_forward_hook(lambda m, args, out: kept.update(mlp=out))
    kept['after'] = backbone(image)[0]
    return kept


@pytest.mark.parametrize('norm', NORMS)
@pytest.mark.parametrize('form', FORMS)
@each_family
def test_the_parallel_form_reads_the_stream_and_the_sequential_one_the_mlp(family, form, norm):
    options = dict(form=form, adapter_norm=norm, scale=0.7)
    where = dict(out_type='raw', out_indices=(1,))
    if family == 'swin':  # block 1 is the first of two of stage 1, which is cut to it
        where['trunk'] = dict(arch_options=dict(depths=(1, 1, 1, 1)))
    backbone = shake(tuned(family, {**ADAPTFORMER, **options}, **where))
    kept, adapter = stream(backbone, images(2, 3, 32, 32)), backbone.tuner.adapters[1]
    read = kept['tokens'] if form == 'parallel' else kept['mlp']
    hidden = F.relu(adapter.down(F.layer_norm(read, read.shape[-1:], *affine(adapter.norm_in))
                                 if norm == 'in' else read))  # fmt: skip
    added = 0.7 * adapter.up(hidden)
    if norm == 'out':
        added = F.layer_norm(added, added.shape[-1:], *affine(adapter.norm_out))
    expected = kept['tokens'] + kept['mlp'] + added
    torch.testing.assert_close(kept['after'], expected, rtol=1e-5, atol=1e-5)


def affine(norm):
    return norm.weight, norm.bias


def test_prompts_stand_before_the_class_token_and_leave_with_the_block():
    options = {**ADAPTFORMER, 'num_prompt_tokens': 3}
    backbone = shake(tuned('vit', options, out_type='raw', out_indices=(0, 1)))
    seen = []
    for index in (0, 1):
        backbone.trunk.block(index).norm1.register_forward_hook(
            lambda m, args, out: seen.append(args[0])
        )
    image = images(2, 3, 32, 32)
    first, second = backbone(image)
    assert [x.shape[1] for x in (*seen, first, second)] == [3 + 17, 3 + 17, 17, 17]
    for tokens, prompt in zip(seen, backbone.tuner.prompts, strict=True):
        assert tokens[:, :3].equal(prompt.expand(2, -1, -1))
    assert seen[0][:, 3:].equal(backbone.trunk.embed(image)[0])
    assert seen[1][:, 3:].equal(first)


@pytest.mark.parametrize('family', ['swin', 'hvt'])
def test_prompts_need_a_sequence_that_may_be_lengthened(family):
    with pytest.raises(UserError, match=r'AdaptFormerTuner is not defined .*\(token_sequence\)'):
        tuned(family, {**ADAPTFORMER, 'num_prompt_tokens': 1})


@pytest.mark.parametrize('out_type', ['avg_featmap', 'cls_token'])
def test_a_norm_behind_the_pooling_is_trained_if_it_runs(out_type):
    average = dict(arch_options=dict(global_pool='avg'))
    backbone = tuned('vit', ADAPTFORMER, trunk=average, out_type=out_type)
    runs = out_type == 'avg_featmap'
    free = {name for name, p in backbone.named_parameters() if p.requires_grad}
    norm = {'trunk.vit.fc_norm.weight', 'trunk.vit.fc_norm.bias'}
    assert {name for name in free if name.startswith('trunk.')} == (norm if runs else set())
    backbone(images(2, 3, 32, 32))[0].square().sum().backward()
    assert (backbone.trunk.vit.fc_norm.bias.grad is not None) == runs


def test_dropout_acts_behind_the_relu_in_training_only():
    backbone = shake(tuned('vit', {**ADAPTFORMER, 'drop_rate': 0.5}, out_type='raw'))
    still = shake(tuned('vit', {**ADAPTFORMER, 'drop_rate': 0.0}, out_type='raw'))
    image = images(2, 3, 32, 32)
    assert backbone(image)[0].equal(still(image)[0])
    assert not backbone.train()(image)[0].equal(backbone(image)[0])
    assert still.train()(image)[0].equal(still.eval()(image)[0])


@each_family
def test_adapters_have_the_width_of_their_block(family):
    backbone = tuned(family, ADAPTFORMER)
    widths = [adapter.up.out_features for adapter in backbone.tuner.adapters]
    assert widths == list(backbone.trunk.block_dims)
    assert widths == ([16, 32, 32, 64, 64, 128] if family == 'swin' else [32] * 4)


def test_it_cannot_be_merged_and_the_message_says_what_to_do():
    backbone = tuned('vit', ADAPTFORMER)
    with pytest.raises(UserError, match=r'AdaptFormerTuner cannot be merged .*export'):
        backbone.merge_tuner()


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(form='paralel'), "tuner.form 'paralel' is unknown: did you mean 'parallel'?"),
        (dict(adapter_norm='both'), "tuner.adapter_norm 'both' is unknown"),
        (dict(scale='learnd'), "tuner.scale 'learnd' is unknown: did you mean 'learned'?"),
        (dict(adapter_dims=0), 'tuner.adapter_dims 0 must be at least 1'),
        (dict(num_prompt_tokens=-1), 'tuner.num_prompt_tokens -1 must be at least 0'),
        (dict(drop_rate=1.0), 'tuner.drop_rate 1.0 must be from 0 to below 1'),
    ],
)
def test_a_wrong_option_is_refused_by_name_and_value(options, words):
    with pytest.raises(UserError) as info:
        AdaptFormerTuner(**options)
    assert words in str(info.value)
