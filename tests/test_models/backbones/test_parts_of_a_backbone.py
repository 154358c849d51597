"""How a backbone's config names its trunk and its tuner."""

import pytest

from hstpeft.errors import UserError
from hstpeft.models import FrozenTuner, SSFTuner, TunedBackbone, ViTTrunk
from tests.support.families import FROZEN, trunk_config
from tests.support.models import MODELS, images


def build(trunk=None, tuner=None):
    config = dict(trunk=trunk or trunk_config('vit'), tuner=tuner or FROZEN)
    return MODELS.build(dict(type='hstpeft.TunedBackbone', **config))


def without_type(config):
    return {key: value for key, value in config.items() if key != 'type'}


def test_a_type_may_be_the_class_itself():
    trunk = {**trunk_config('vit'), 'type': ViTTrunk}
    by_class = build(trunk, dict(type=SSFTuner))
    assert type(by_class.trunk) is ViTTrunk and type(by_class.tuner) is SSFTuner
    other = build(tuner=dict(type='hstpeft.SSFTuner'))
    other.load_state_dict(by_class.state_dict(), strict=True)
    image = images(2, 3, 32, 32)
    assert other(image)[0].equal(by_class(image)[0])
    assert trunk['type'] is ViTTrunk, 'the config itself was changed'


def test_the_backbone_itself_may_be_built_by_its_class():
    backbone = TunedBackbone(trunk_config('vit'), dict(type=FrozenTuner))
    assert backbone.out_channels == (32,)


@pytest.mark.parametrize('part', ['trunk', 'tuner'])
def test_a_missing_type_is_refused_with_the_types_that_exist(part):
    config = {'trunk': trunk_config('vit'), 'tuner': FROZEN}[part]
    with pytest.raises(UserError) as info:
        build(**{part: without_type(config) or dict(drop_rate=0.1)})
    message = str(info.value)
    assert message.startswith(
        f"backbone.{part} has no type: add type='hstpeft...', known: hstpeft."
    )
    assert {'trunk': 'hstpeft.ViTTrunk', 'tuner': 'hstpeft.ARCTuner'}[part] in message


@pytest.mark.parametrize(
    ('part', 'given', 'words'),
    [
        ('trunk', 'hstpeft.ViTTruk', "unknown: did you mean 'hstpeft.ViTTrunk'?"),
        ('tuner', 'hstpeft.SFTuner', "unknown: did you mean 'hstpeft.SSFTuner'?"),
        ('trunk', 'hstpeft.SSFTuner', 'is no trunk: known: hstpeft.EvaTrunk'),
        ('trunk', SSFTuner, 'is no trunk: known: hstpeft.EvaTrunk'),
        ('tuner', 'hstpeft.ViTTrunk', 'is no tuner: known: hstpeft.A'),
        ('tuner', dict, 'is no tuner: known: hstpeft.A'),
    ],
)
def test_a_wrong_type_is_refused_with_what_was_given(part, given, words):
    with pytest.raises(UserError) as info:
        build(**{part: dict(type=given)})
    assert f'backbone.{part} type {given!r}' in str(info.value) and words in str(info.value)


@pytest.mark.parametrize(
    ('part', 'option', 'words'),
    [
        ('trunk', 'archs', "backbone.trunk has no option 'archs': did you mean 'arch'?"),
        ('tuner', 'num_token', "backbone.tuner has no option 'num_token': did you mean 'num_tokens'?"),
    ],
)  # fmt: skip
def test_a_misspelt_option_gets_the_nearest_name(part, option, words):
    configs = dict(trunk=trunk_config('vit'), tuner=dict(type='hstpeft.VPTTuner'))
    configs[part] = {**configs[part], option: 3}
    with pytest.raises(UserError) as info:
        build(**configs)
    assert str(info.value) == words


@pytest.mark.parametrize(
    ('part', 'kind', 'words'),
    [
        ('trunk', 'EvaTrunk', 'backbone.trunk EvaTrunk needs arch: add arch=...'),
        ('tuner', 'HFPeftTuner', 'backbone.tuner HFPeftTuner needs peft_type: add peft_type=...'),
    ],
)
def test_an_option_without_default_that_is_left_out_is_named(part, kind, words):
    with pytest.raises(UserError) as info:
        build(**{part: dict(type=f'hstpeft.{kind}')})
    assert str(info.value) == words


@pytest.mark.parametrize(
    ('part', 'given', 'key'),
    [
        ('trunk', ['hstpeft.ViTTrunk'], 'trunk'),
        ('tuner', 'hstpeft.SSFTuner', 'tuner'),
        ('tuner', [dict(type='hstpeft.SSFTuner'), 'hstpeft.LoRATuner'], r'tuner\.1'),
    ],
)
def test_what_is_no_dict_is_refused(part, given, key):
    with pytest.raises(UserError, match=rf'backbone\.{key} '):
        build(**{part: given})


def test_a_tuner_without_options_says_so():
    with pytest.raises(UserError) as info:
        build(tuner=dict(type='hstpeft.FullTuner', layer_decay=0.75))
    message = str(info.value)
    assert message == (
        "backbone.tuner has no option 'layer_decay': FullTuner has none; leave it out"
    )
