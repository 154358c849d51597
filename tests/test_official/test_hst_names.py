"""Official HST checkpoints and ours are the same numbers under other names."""

import json

import pytest
import torch

from hstpeft.errors import UserError
from hstpeft.official import TRUNK, hst_depths, hst_names, join_hst, split_hst
from hstpeft.oracle.literal.shapes import hst_shapes
from tests.support.models import ARCH, build, classifier_config, draw
from tests.support.paths import REFERENCE

CASES = sorted(path.stem for path in (REFERENCE / 'hst').glob('*.json'))


def official_weights(case: str) -> dict[str, torch.Tensor]:
    meta = json.loads((REFERENCE / 'hst' / f'{case}.json').read_text())
    return draw(
        {key: shape for key, shape, _ in meta['parameters'] + meta['buffers']}, meta['seed']
    )


@pytest.mark.parametrize('case', CASES)
def test_split_and_join_are_inverse_on_the_reference_weights(case):
    official = official_weights(case)
    trunk, state = split_hst(official)
    joined = join_hst(trunk, state)
    assert joined.keys() == official.keys()
    assert all(joined[key] is value for key, value in official.items())


def test_the_delta_of_a_product_becomes_an_official_checkpoint_and_back():
    official = official_weights('small_eval')
    trunk, state = split_hst(official)
    options = dict(embed_dim=64, depth=12, num_heads=4, img_size=64)
    backbone = dict(
        type='hstpeft.TunedBackbone',
        trunk=dict(type='hstpeft.ViTTrunk', arch=ARCH, arch_options=options, weights=trunk),
        tuner=dict(type='hstpeft.HSTTuner', side_dims=(32, 48, 64, 72), side_heads=(2, 4, 8, 12)),
    )
    model = build(classifier_config(backbone, num_classes=10))
    own = model.state_dict()
    assert state.keys() <= own.keys()
    norms = {key: value for key, value in own.items() if key.startswith(TRUNK)}
    assert own.keys() == state.keys() | norms.keys() | {'backbone._extra_state'}
    whole = {**trunk, **{key.removeprefix(TRUNK): value for key, value in norms.items()}}
    joined = join_hst(whole, own)
    assert joined.keys() == official.keys()
    again, delta = split_hst(joined)
    assert all(delta[key].equal(own[key]) for key in delta)
    assert all(again[key.removeprefix(TRUNK)].equal(value) for key, value in norms.items())


def test_names_are_one_to_one():
    names = hst_names((3, 1, 2, 6))
    assert len(set(names.values())) == len(names)


def test_depths_are_read_off_the_keys():
    shapes = hst_shapes(16, 5, (2, 2), 8, (8, 8, 8, 8), (1, 2, 1, 1), 3)
    assert hst_depths(shapes) == (1, 2, 1, 1)
    with pytest.raises(UserError, match='m_block1 to m_block4'):
        hst_depths([key for key in shapes if not key.startswith('m_block3')])


def test_unused_blocks_of_an_official_vit_l_are_left_out():
    official = draw(hst_shapes(16, 8, (2, 2), 8, (8, 8, 8, 8), (1, 1, 1, 1), 3))
    trunk, state = split_hst(official)
    assert 'blocks.7.norm1.weight' in trunk
    assert 'backbone.tuner.meta_tokens.3' in state
    assert 'backbone.tuner.meta_tokens.4' not in state


@pytest.mark.parametrize('change', ['missing', 'left over'])
def test_what_is_no_official_checkpoint_is_refused_by_key(change):
    official = official_weights('small_eval')
    if change == 'missing':
        del official['m_norm2.bias']
    else:
        official['m_extra.weight'] = torch.ones(1)
    with pytest.raises(UserError, match=f'{change} .*m_'):
        split_hst(official)


def test_a_delta_that_official_hst_cannot_express_is_refused():
    trunk, state = split_hst(official_weights('small_eval'))
    state['backbone.tuner.meta_tokens.12'] = torch.ones(1, 1, 64)
    with pytest.raises(UserError, match='12 side blocks for 13 trunk blocks'):
        join_hst(trunk, state)
    with pytest.raises(UserError, match='0 side blocks'):
        join_hst(trunk, {})
