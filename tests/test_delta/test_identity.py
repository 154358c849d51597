"""What tells two functions apart that the tensors of their deltas do not tell apart.

`OPTIONS` says of every option of a tuner what another value of it does to a delta. A new option of
one of these tuners needs an entry here. Of a tuner without entries, numbers and switches are tried by
themselves, and the rest must be described.
"""

import inspect
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from hstpeft.delta.identity import (
    Identity,
    check_identity,
    decode_identity,
    encode_identity,
    hash_description,
)
from hstpeft.errors import UserError
from hstpeft.models import Tuner
from hstpeft.registry import MODELS
from tests.support.families import FROZEN, shake, tuned
from tests.support.models import SIDE, images
from tests.support.tiny import same

# What another value does: the delta has other keys or shapes; it has the same ones, and only its
# identity differs; or it is the same delta, since the option only acts in training.
TENSORS, FUNCTION, SAME = 'tensors', 'function', 'same'


class Change(NamedTuple):
    """Another value of an option, beside other options, and what it does."""

    value: Any
    effect: str
    beside: dict[str, Any] = {}


OPTIONS = {
    'FrozenTuner': {},
    'FullTuner': {},
    'SSFTuner': {},
    'HSTTuner': {
        'side_dims': [Change((8, 12, 12, 32), TENSORS)],
        'side_heads': [Change((2, 2, 3, 2), FUNCTION), Change((1, 2, 3, 4), FUNCTION)],
        'side_depths': [Change((1, 1, 1, 1), TENSORS)],
        'tap_indices': [Change((0, 2, 4, 7), FUNCTION, dict(side_depths=(1, 1, 1, 1)))],
        'num_meta_tokens': [Change(2, TENSORS)],
        'side_drop_path_rate': [Change(0.3, SAME)],
        'mlp_ratio': [Change(2.0, TENSORS)],
        'qkv_bias': [Change(False, TENSORS)],
        'stem_norm': [Change('GN', TENSORS)],
    },
    'ARCTuner': {
        'positions': [Change(['mlp'], TENSORS)],
        'adapter_dims': [Change(3, TENSORS)],
        'drop_rate': [Change(0.3, SAME)],
    },
    'LoRATuner': {
        'positions': [Change(['fc1'], TENSORS)],
        'rank': [Change(2, TENSORS)],
        'alpha': [Change(4.0, FUNCTION), Change(8.5, FUNCTION)],
        'drop_rate': [Change(0.3, SAME)],
    },
    'SA2VPTuner': {
        'inner_dims': [Change(3, TENSORS)],
        'mixing_weight': [Change(0.2, FUNCTION)],
        'exchange_indices': [Change((0, 1), FUNCTION, dict(deep_prompt_indices=()))],
        'deep_prompt_indices': [
            Change((0, 2), TENSORS, dict(exchange_indices=(0, 2))),
            Change((0,), FUNCTION, dict(exchange_indices=(0, 2), deep_prompt_indices=(2,))),
        ],
        'accelerated': [Change(True, FUNCTION)],
        'tie_cross_attention': [Change(False, TENSORS)],
        'drop_rate': [Change(0.3, SAME)],
    },
    'MemoryTokensTuner': {
        'mode': [Change('standard', TENSORS)],
        'num_memory_tokens': [Change(2, TENSORS)],
        'train_cls_token': [Change(False, TENSORS)],
    },
    'VPTTuner': {
        'num_tokens': [Change(2, TENSORS)],
        'deep': [Change(False, TENSORS)],
        'prompt_dims': [Change(6, TENSORS), Change(32, TENSORS)],
        'drop_rate': [Change(0.3, SAME)],
    },
    'AdaptFormerTuner': {
        'form': [Change('sequential', FUNCTION)],
        'adapter_dims': [Change(3, TENSORS)],
        'scale': [Change(0.2, FUNCTION), Change('learned', TENSORS)],
        'adapter_norm': [Change('in', TENSORS), Change('out', TENSORS, dict(adapter_norm='in'))],
        'drop_rate': [Change(0.3, SAME)],
        'num_prompt_tokens': [Change(2, TENSORS)],
    },
    'RepAdapterTuner': {
        'positions': [Change(['attention'], TENSORS)],
        'adapter_dims': [Change(4, TENSORS)],
        'num_groups': [Change(4, TENSORS)],
        'scale': [Change(0.5, FUNCTION)],
        'drop_rate': [Change(0.3, SAME)],
    },
    'FacTTuner': {
        'form': [Change('tk', TENSORS)],
        'rank': [Change(3, TENSORS)],
        'scale': [Change(0.5, FUNCTION)],
        'drop_rate': [Change(0.3, SAME)],
    },
    'AdapterPlusTuner': {
        'form': [
            Change('parallel', FUNCTION),
            Change('pfeiffer', SAME),
            Change('houlsby', TENSORS),
        ],
        'adapter_dims': [Change(3, TENSORS)],
        'scale': [Change('learned', TENSORS), Change(0.2, FUNCTION, dict(scale=0.1))],
        'adapter_norm': [Change('in', TENSORS)],
        'bias': [Change(False, TENSORS)],
        'activation': [Change(False, FUNCTION)],
        'init': [Change('bert', SAME), Change('lora', SAME)],
        'train_norms': [Change(True, TENSORS)],
        'drop_rate': [Change(0.3, SAME)],
        'drop_path_rate': [Change(0.3, SAME)],
    },
    'ConvpassTuner': {
        'positions': [Change(['mlp'], TENSORS)],
        'adapter_dims': [Change(3, TENSORS)],
        'scale': [Change(0.2, FUNCTION)],
        'conv_init': [Change('xavier', SAME)],
        'drop_rate': [Change(0.3, SAME)],
    },
    'SelectiveTuner': {
        'parts': [Change(['norms'], TENSORS)],
        'last_blocks': [Change(2, TENSORS)],
        'parameters': [Change(['cls_token'], TENSORS)],
    },
    'HFPeftTuner': {
        'peft_type': [Change('DORA', TENSORS, dict(peft_type='LORA'))],
        'positions': [Change(['fc1'], TENSORS, dict(peft_type='LORA'))],
    },
}  # fmt: skip
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
CHANGES = [
    pytest.param(
        tuner,
        option,
        change,
        marks=[pytest.mark.slow] * (number > 0),
        id=f'{tuner} {option} {change.value}',
    )
    for tuner, options in OPTIONS.items()
    for number, (option, changes) in enumerate(options.items())
    for change in changes
]


def test_every_option_of_the_tuners_in_the_table_is_there():
    tuners = {name: MODELS.module_dict[name] for name in OPTIONS}
    assert all(issubclass(kind, Tuner) for kind in tuners.values())
    options = {
        name: {p.name for p in inspect.signature(kind).parameters.values() if p.kind in NAMED}
        for name, kind in tuners.items()
    }
    assert options == {name: set(entries) for name, entries in OPTIONS.items()}
    assert all(changes for entries in OPTIONS.values() for changes in entries.values())


def backbone(tuner: str, options: dict[str, Any]) -> nn.Module:
    trunk = {}
    if tuner == 'HSTTuner':  # two trunk blocks for each of its stages
        options, trunk = {**SIDE, **options}, dict(arch_options=dict(depth=8))
    return tuned('vit', dict(type=f'hstpeft.{tuner}', **options), trunk=trunk)


TUNERS = sorted(
    name for name, k in MODELS.module_dict.items() if inspect.isclass(k) and issubclass(k, Tuner)
)
# By itself, for every tuner that there is, a new one too: a number or a switch that is changed.
SCALARS = [
    pytest.param(tuner, option.name, option.default, id=f'{tuner} {option.name}')
    for tuner in TUNERS
    for option in inspect.signature(MODELS.module_dict[tuner]).parameters.values()
    if isinstance(option.default, (bool, int, float))
    and not option.name.endswith(('drop_rate', 'drop_path_rate'))  # act in training alone
]


@pytest.mark.parametrize(('tuner', 'option', 'default'), SCALARS)
def test_a_changed_number_or_switch_of_any_tuner_is_another_delta(tuner, option, default):
    value = not default if isinstance(default, bool) else 2 * default or 1
    states = [backbone(tuner, options).state_dict() for options in ({}, {option: value})]
    shapes = [{key: x.shape for key, x in state.items()} for state in states]
    identities = [decode_identity(state['_extra_state']).function for state in states]
    assert shapes[0] != shapes[1] or identities[0] != identities[1]


def test_a_word_or_list_among_the_options_of_any_tuner_is_described_or_in_the_table():
    for tuner in set(TUNERS) - OPTIONS.keys():
        options = inspect.signature(MODELS.module_dict[tuner]).parameters.values()
        others = {o.name for o in options if not isinstance(o.default, (bool, int, float))}
        assert others <= backbone(tuner, {}).tuner.description().keys(), tuner


def assert_effect(one: nn.Module, other: nn.Module, effect: str) -> None:
    """Compare two backbones, and load the delta of the one into the other."""
    shapes = [
        {key: value.shape for key, value in each.state_dict().items()} for each in (one, other)
    ]
    assert (shapes[0] == shapes[1]) == (effect != TENSORS)
    delta = shake(one).state_dict()
    if effect == SAME:
        other.load_state_dict(delta, strict=True)
        image = images(2, 3, 32, 32)
        assert same(list(one(image)), list(other(image)))
        return
    for strict in (True, False):
        with pytest.raises(UserError, match='the checkpoint'):
            other.load_state_dict(delta, strict=strict)
    assert (one.identity().function != other.identity().function) or effect == TENSORS


@pytest.mark.parametrize(('tuner', 'option', 'change'), CHANGES)
def test_another_value_does_to_a_delta_what_the_table_says(tuner, option, change):
    one = backbone(tuner, change.beside)
    backbone(tuner, change.beside).load_state_dict(one.state_dict(), strict=True)
    other = {**change.beside, option: change.value}
    assert_effect(one, backbone(tuner, other), change.effect)


# Family, options of both trunks, options of the other one, what they do.
TRUNKS = {
    'heads': ('vit', {}, dict(arch_options=dict(num_heads=4)), FUNCTION),
    'activation': ('vit', {}, dict(arch_options=dict(act_layer='relu')), FUNCTION),
    'form of the GELU': ('vit', {}, dict(arch_options=dict(act_layer='gelu_tanh')), FUNCTION),
    'windows': ('vit', {}, dict(window_size=2), FUNCTION),
    'size of windows': ('vit', dict(window_size=2), dict(window_size=3), FUNCTION),
    'dropout': ('vit', {}, dict(mlp_drop_rate=0.3), SAME),
    'drop path': ('vit', {}, dict(arch_options=dict(drop_path_rate=0.3)), SAME),
    'drop path of a Swin': ('swin', {}, dict(arch_options=dict(drop_path_rate=0.3)), SAME),
    'heads of an HVT': ('hvt', {}, dict(arch_options=dict(num_heads=4)), FUNCTION),
    'kernel of an HVT': ('hvt', dict(pool_width=4), dict(pool_kernel_size=4), FUNCTION),
}  # fmt: skip


@pytest.mark.parametrize('name', TRUNKS)
def test_another_form_of_the_trunk_is_told_apart_although_its_weights_are_the_same(name):
    family, both, options, effect = TRUNKS[name]
    arc = dict(type='hstpeft.ARCTuner', adapter_dims=3)
    weights = tuned(family, arc, trunk={**both, 'weights': None}).trunk.net.state_dict()
    one, other = (
        tuned(family, arc, trunk={**both, **each, 'weights': dict(weights)})
        for each in ({}, options)
    )
    assert one.trunk.identity == other.trunk.identity != 'random'
    assert_effect(one, other, effect)


@pytest.mark.parametrize(('limit', 'count'), [(64, 12), (128, 30)])
def test_windows_that_differ_behind_what_the_words_hold_are_told_apart(limit, count):
    """Words of hstpeft 0.1 had 64 bytes, today's have 128."""
    options = dict(window_size=2, weights=None)
    options['arch_options'] = dict(depth=50, embed_dim=8, num_heads=1)
    one, other = (
        tuned('vit', FROZEN, trunk={**options, 'global_attn_indices': (*range(count), last)})
        for last in (48, 49)
    )
    words = [each.identity().words for each in (one, other)]
    assert words[0][:limit] == words[1][:limit] and words[0] != words[1]
    with pytest.raises(UserError, match='the checkpoint was made with'):
        other.load_state_dict(one.state_dict())


def old_form(trunk: str, words: str) -> torch.Tensor:
    """Pack an identity as hstpeft 0.1 did."""
    packed = b''.join(text.encode()[:64].ljust(64, b'\0') for text in (trunk, words))
    return torch.tensor(list(packed), dtype=torch.uint8)


def test_an_old_identity_is_compared_by_its_words():
    own = encode_identity(Identity('a' * 64, 'f' * 64, 'HSTTuner, windows of 2'))
    check_identity(old_form('a' * 64, 'HSTTuner, windows of 2'), own)
    assert decode_identity(old_form('a' * 64, 'HSTTuner')) == ('a' * 64, '', 'HSTTuner', '')
    with pytest.raises(UserError, match='made with the tuner HSTTuner, the model has HSTTuner, w'):
        check_identity(old_form('a' * 64, 'HSTTuner'), own)
    with pytest.raises(
        UserError, match='made on the trunk bbbbbbbbbbbb, the model has the trunk a'
    ):
        check_identity(old_form('b' * 64, 'HSTTuner, windows of 2'), own)


def test_old_words_that_were_cut_are_compared_as_far_as_they_go():
    words = 'LoRATuner (alpha=0.333333), windows of 2 but in (0, 1, 2, 3, 4, 5, 6, 7)'
    own = encode_identity(Identity('random', 'f' * 64, words))
    check_identity(old_form('random', words), own)
    with pytest.raises(UserError, match='made with the tuner'):
        check_identity(old_form('random', words.replace('windows of 2', 'windows of 3')), own)


def test_a_hash_tells_functions_apart_that_have_the_same_words():
    own = encode_identity(Identity('random', 'f' * 64, 'AdaptFormerTuner'))
    check_identity(own, own)
    with pytest.raises(UserError, match=r'other options of AdaptFormerTuner .*\(function eeee'):
        check_identity(encode_identity(Identity('random', 'e' * 64, 'AdaptFormerTuner')), own)


def test_the_hash_sees_values_and_not_how_they_are_written():
    one = hash_description({'a': {'heads': (2, 4), 'scale': 1}, 'b': 0.5})
    assert one == hash_description({'b': 0.5, 'a': {'scale': 1.0, 'heads': [2.0, 4]}})
    assert one != hash_description({'a': {'heads': (4, 2), 'scale': 1}, 'b': 0.5})
    assert hash_description({'a': (0, 2)}) != hash_description({'a': (2,)})


@pytest.mark.parametrize('neutral', [None, 0, 0.0, False, (), '', {}, {'c': 0}])
def test_a_later_option_whose_value_is_falsy_leaves_the_hash_alone(neutral):
    assert hash_description({'a': 1, 'later': neutral}) == hash_description({'a': 1})
    assert hash_description({'later': 1, 'a': 1}) != hash_description({'a': 1})
