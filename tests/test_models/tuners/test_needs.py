"""What a tuner needs of a trunk, and how a trunk that lacks it is refused."""

import pytest

from hstpeft.errors import UserError
from hstpeft.models import EvaTrunk, HVTTrunk, SwinTrunk, Tuner, ViTTrunk
from hstpeft.models.trunks import CAPABILITIES
from hstpeft.models.tuners import check_needs
from tests.support.families import FAMILIES, build_trunk, tuned

# Which of these tuners' needs the other two families do not have.
LACKING = [
    (
        'VPTTuner',
        'hvt',
        'front_tokens',
        'hstpeft.EvaTrunk or hstpeft.SwinTrunk or hstpeft.ViTTrunk',
    ),
    ('SA2VPTuner', 'eva', 'block_parts', 'hstpeft.SwinTrunk or hstpeft.ViTTrunk'),
    ('HSTTuner', 'swin', 'token_sequence', 'hstpeft.EvaTrunk or hstpeft.ViTTrunk'),
    ('HSTTuner', 'hvt', 'token_sequence', 'hstpeft.EvaTrunk or hstpeft.ViTTrunk'),
    ('SA2VPTuner', 'hvt', 'maps', 'hstpeft.SwinTrunk or hstpeft.ViTTrunk'),
    ('MemoryTokensTuner', 'swin', 'token_sequence', 'hstpeft.EvaTrunk or hstpeft.ViTTrunk'),
    ('MemoryTokensTuner', 'hvt', 'token_sequence', 'hstpeft.EvaTrunk or hstpeft.ViTTrunk'),
]


class Wishful(Tuner):
    """Needs what a test gives it."""

    def attach(self, trunk):
        """There is nothing to build."""


@pytest.mark.parametrize('family', FAMILIES)
def test_capabilities_of_a_trunk_are_known_words(family):
    assert build_trunk(family).capabilities <= CAPABILITIES.keys()


def test_windows_take_the_whole_image_away():
    assert 'whole_image' in build_trunk('vit').capabilities
    windowed = build_trunk('vit', window_size=2)
    assert build_trunk('vit').capabilities - windowed.capabilities == {'whole_image'}
    every = build_trunk('vit', window_size=2, global_attn_indices=range(4))
    assert every.capabilities == ViTTrunk.capabilities


def trunks_named(message: str) -> set[str]:
    return set(message.rpartition('; use ')[2].split(' or '))


@pytest.mark.parametrize(('tuner', 'family', 'need', 'trunks'), LACKING)
def test_the_refusal_names_tuner_trunk_capability_and_the_trunks_that_have_it(
    tuner, family, need, trunks
):
    with pytest.raises(UserError) as info:
        tuned(family, dict(type=f'hstpeft.{tuner}'))
    message, trunk = str(info.value), type(build_trunk(family)).__name__
    assert message.startswith(f'backbone.tuner {tuner} is not defined for a {trunk}: it needs ')
    assert f'{CAPABILITIES[need]} ({need})' in message
    assert trunks_named(message) == set(trunks.split(' or '))


@pytest.mark.parametrize('need', CAPABILITIES)
def test_every_capability_is_checked(need):
    tuner = Wishful()
    have = {kind for kind in (ViTTrunk, EvaTrunk, SwinTrunk, HVTTrunk) if need in kind.capabilities}
    for family in FAMILIES:
        trunk = build_trunk(family)
        if type(trunk) in have:
            check_needs(tuner, trunk, (need,))
            continue
        with pytest.raises(UserError, match=rf'Wishful is not defined .*\({need}\)') as info:
            check_needs(tuner, trunk, (need,))
        named = trunks_named(str(info.value))
        assert named == {f'hstpeft.{kind.__name__}' for kind in have}


def test_needs_that_no_trunk_has_together_say_so_and_a_remedy_takes_the_place_of_trunks():
    trunk = build_trunk('vit')
    with pytest.raises(UserError, match=r'\(stages\); use another trunk$'):
        check_needs(Wishful(), trunk, ('one_stage', 'stages'))
    with pytest.raises(UserError, match=r'\(stages\); do something else$'):
        check_needs(Wishful(), trunk, ('stages',), remedy='do something else')
