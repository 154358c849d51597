"""What does not fit is refused before a single number is copied."""

import pytest
import torch

from hstpeft.delta import check_state_dict
from hstpeft.delta.identity import Identity, decode_identity, encode_identity
from hstpeft.errors import UserError
from tests.support.loading import LOADERS
from tests.support.models import (
    backbone_config,
    build,
    changed,
    classifier_config,
    snapshot,
    trunk_config,
    vit_weights,
)  # fmt: skip

NORM = 'backbone.trunk.vit.blocks.1.norm2.bias'
TOKENS = 'backbone.tuner.meta_tokens.2'


def saved(weights='drawn', tuner=None) -> dict:
    return build(
        classifier_config(backbone_config(trunk_config(weights), tuner)), seed=7
    ).state_dict()


def of_another_trunk() -> dict:
    return saved(vit_weights(seed=1))


def of_a_random_trunk() -> dict:
    return saved(None)


def of_another_tuner() -> dict:
    config = backbone_config(tuner=dict(type='hstpeft.FrozenTuner'))
    state = build(config, seed=None).state_dict()
    return {f'backbone.{key}': value for key, value in state.items()}


def without_identity() -> dict:
    return {key: value for key, value in saved().items() if key != 'backbone._extra_state'}


def without_a_norm() -> dict:
    return {key: value for key, value in saved().items() if key != NORM}


def with_a_frozen_tensor() -> dict:
    return {**saved(), 'backbone.trunk.vit.pos_embed': torch.ones(1, 17, 32)}


def with_more_meta_tokens() -> dict:
    return {**saved(), TOKENS: torch.ones(1, 2, 32)}


def with_a_damaged_identity() -> dict:
    return {**saved(), 'backbone._extra_state': torch.ones(3)}


FAULTS = {
    of_another_trunk: 'made on the trunk .* the model has the trunk .*trunk.weights',
    of_a_random_trunk: 'made on the trunk random',
    of_another_tuner: 'tuner FrozenTuner, the model has HSTTuner',
    without_identity: 'no trunk identity.*tools/model_converters',
    without_a_norm: 'missing: trunk.vit.blocks.1.norm2.bias',
    with_a_frozen_tensor: 'unexpected: trunk.vit.pos_embed',
    with_more_meta_tokens: r'tuner.meta_tokens.2 \(1, 2, 32\) instead of \(1, 1, 32\)',
    with_a_damaged_identity: 'identity is damaged',
}


@pytest.mark.parametrize('load', LOADERS)
@pytest.mark.parametrize('fault', FAULTS)
def test_a_wrong_delta_is_refused_before_anything_is_copied(fault, load):
    model = build(classifier_config(), seed=1)
    before = snapshot(model)
    with pytest.raises(UserError, match=FAULTS[fault]):
        load(model, fault())
    assert not changed(model, before)


def test_a_delta_of_a_trunk_is_refused_by_a_random_one():
    model = build(classifier_config(backbone_config(trunk_config(None))), seed=None)
    before = snapshot(model)
    with pytest.raises(UserError, match='the model has the trunk random'):
        model.load_state_dict(saved())
    assert not changed(model, before)


def test_a_trunk_that_differs_in_one_number_is_another_trunk():
    weights = vit_weights()
    weights['blocks.2.mlp.fc1.weight'][3, 4] += 1e-3
    with pytest.raises(UserError, match='made on the trunk'):
        build(classifier_config()).load_state_dict(saved(weights))


def test_every_problem_is_listed_but_the_list_is_short():
    own = {f'k{i}': torch.ones(2) for i in range(9)}
    given = {'k8': torch.ones(3), 'new': torch.ones(1)}
    with pytest.raises(UserError) as error:
        check_state_dict(own, given, 'this file')
    message = str(error.value)
    assert message.startswith('this file does not fit: missing: k0, k1, k2, k3, k4 and 3 more;')
    assert 'unexpected: new' in message and 'shape: k8 (3,) instead of (2,)' in message
    check_state_dict(own, dict(own), 'this file')


@pytest.mark.parametrize('identity', ['random', 'f' * 64])
@pytest.mark.parametrize('tuner', ['HSTTuner', 'X' * 128])
def test_the_packed_identity_has_one_length_and_comes_back(identity, tuner):
    whole = Identity(identity, 'a' * 64, tuner, '{"out_type":"raw"}')
    packed = encode_identity(whole)
    assert packed.dtype == torch.uint8 and packed.shape == (384,)
    assert decode_identity(packed) == whole
    # As the first ones of 0.2 were packed.
    assert decode_identity(packed[:256]) == whole._replace(form='')
