"""Training parts of a trunk: which parameters each option names, their union, wrong names."""

import pytest

from hstpeft.errors import UserError
from hstpeft.models.tuners.selective import SelectiveTuner
from tests.support.families import tuned

NORM = {'norm.weight', 'norm.bias'}


def trained(family, trunk=None, out_indices=None, **options):
    """Name what is trained, as timm does."""
    tuner = dict(type='hstpeft.SelectiveTuner', **options)
    model = tuned(family, tuner, trunk=trunk, out_indices=out_indices)
    own = {id(p): name for name, p in model.trunk.net.named_parameters()}
    return {own[id(p)] for p in model.parameters() if p.requires_grad}


def everything_in(family, prefix):
    names = (
        n for n, _ in tuned(family, dict(type='hstpeft.FullTuner')).trunk.net.named_parameters()
    )
    return {name for name in names if name.startswith(prefix)}


def test_attention_projections_are_those_of_the_blocks_that_run():
    found = trained('vit', parts=['attention_proj'], out_indices=(1,))
    assert found == {f'blocks.{i}.attn.proj.{leaf}' for i in (0, 1) for leaf in ('weight', 'bias')}


def test_tokens_and_positions_are_what_their_family_has():
    assert trained('vit', parts='cls_token') == {'cls_token'}
    registers = dict(arch_options=dict(reg_tokens=2))
    assert trained('vit', parts=['pos_embed'], trunk=registers) == {'pos_embed'}
    assert trained('hvt', parts=['pos_embed']) == {
        'pos_embed', 'blocks.0.pos_embed', 'blocks.2.pos_embed',
    }  # fmt: skip
    tables = trained('swin', parts=['pos_embed'], out_indices=(1,))
    assert tables == {
        f'layers.{stage}.blocks.{block}.attn.relative_position_bias_table'
        for stage, block in ((0, 0), (1, 0), (1, 1))
    }


def test_the_last_blocks_are_whole_and_bring_the_norm_behind_them():
    both = everything_in('vit', 'blocks.2.') | everything_in('vit', 'blocks.3.')
    assert trained('vit', last_blocks=2) == both | NORM
    assert trained('vit', last_blocks=1, out_indices=(2,)) == everything_in('vit', 'blocks.2.')
    last = everything_in('swin', 'layers.3.blocks.0.') | everything_in('swin', 'layers.2.blocks.1.')
    assert trained('swin', last_blocks=2) == last | NORM


def test_what_the_options_name_is_trained_together():
    names = ['patch_embed.proj.weight', 'norm.weight']
    found = trained('vit', parts=['cls_token'], last_blocks=1, parameters=names)
    assert found == {*names, 'cls_token'} | everything_in('vit', 'blocks.3.') | NORM
    assert trained('vit', parameters='cls_token') == {'cls_token'}
    assert SelectiveTuner().parts == ('biases',)


@pytest.mark.parametrize(
    ('family', 'options', 'words'),
    [
        (
            'swin',
            dict(parts=['norms', 'cls_token']),
            r"parts \('cls_token',\): this trunk has none",
        ),
        (
            'vit',
            dict(parameters=['blocks.0.attn.qkv.wieght']),
            "did you mean 'blocks.0.attn.qkv.wei",
        ),
        (
            'vit',
            dict(parameters=['blocks.3.norm1.bias'], out_indices=(1,)),
            'no part in the outputs',
        ),
        ('vit', dict(last_blocks=5), 'last_blocks 5 is more than the 4 blocks'),
        ('vit', dict(last_blocks=-1), 'last_blocks -1 must be at least 0'),
        ('vit', dict(parts=['proj'], last_blocks=1), "tuner.parts 'proj' is unknown"),
    ],
)
def test_what_the_trunk_lacks_is_refused_by_name(family, options, words):
    with pytest.raises(UserError, match=words):
        trained(family, **options)
