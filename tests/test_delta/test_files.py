"""Delta files: small, plain, atomic, and never trusted."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub

from hstpeft.delta import load_checkpoint, make_delta, save_delta
from hstpeft.delta.identity import Identity, encode_identity
from hstpeft.errors import UserError
from tests.support.deltas import SUFFIXES, assert_same, delta
from tests.support.models import build, classifier_config


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_a_delta_comes_back_bit_equal_with_its_metadata(tmp_path, suffix):
    path = tmp_path / 'new' / 'folder' / f'hst{suffix}'
    saved = delta()
    assert save_delta(saved, path) == path.stat().st_size
    assert_same(load_checkpoint(path), saved)
    build(classifier_config(), seed=4).load_state_dict(load_checkpoint(path)['state_dict'])


def test_a_delta_loads_with_bare_weights_only(tmp_path):
    save_delta(delta(), tmp_path / 'hst.pth')
    assert_same(torch.load(tmp_path / 'hst.pth', weights_only=True), delta())


def test_a_delta_is_the_state_dict_and_plain_metadata_only():
    state = {
        'a': torch.ones(2, requires_grad=True),
        'backbone._extra_state': encode_identity(Identity('random', 'a' * 64, 'HSTTuner')),
    }
    checkpoint = {
        'state_dict': state,
        'optimizer': {'state': {}},
        'meta': {
            'epoch': 2, 'iter': 5, 'dataset_meta': {'classes': ('cat', 'dog')},
            'cfg': 'import os', 'hostname': 'secret', 'seed': 1,
        },
    }  # fmt: skip
    small = make_delta(checkpoint)
    assert set(small) == {'state_dict', 'meta'}
    assert small['state_dict'].keys() == state.keys()
    assert not small['state_dict']['a'].requires_grad
    versions = small['meta'].pop('versions')
    assert versions.keys() == {'hstpeft', 'torch'}
    assert small['meta'] == {
        'epoch': 2, 'iter': 5, 'dataset_meta': {'classes': ['cat', 'dog']},
        'trunk': 'random', 'tuner': 'HSTTuner',
    }  # fmt: skip


@pytest.mark.parametrize('count', [0, 2])
def test_no_delta_is_made_without_the_identity_of_one_trunk(count):
    identity = encode_identity(Identity('random', 'a' * 64, 'HSTTuner'))
    state = {f'part{index}._extra_state': identity for index in range(count)}
    with pytest.raises(UserError, match='not one of hstpeft'):
        make_delta({'state_dict': {'weight': torch.ones(1), **state}})


@pytest.mark.parametrize('suffix', SUFFIXES)
@pytest.mark.parametrize('damage', ['empty', 'cut', 'text'])
def test_a_damaged_file_is_a_user_error_that_names_it(tmp_path, suffix, damage):
    path = tmp_path / f'hst{suffix}'
    save_delta(delta(), path)
    raw = path.read_bytes()
    path.write_bytes({'empty': b'', 'cut': raw[: len(raw) // 2], 'text': b'<html>'}[damage])
    with pytest.raises(UserError, match=f'hst{suffix} cannot be read'):
        load_checkpoint(path)


@pytest.mark.parametrize('content', [torch.ones(2), [1], {'model': {}}, OrderedDict()])
def test_a_file_without_state_dict_is_a_user_error(tmp_path, content):
    torch.save(content, tmp_path / 'odd.pth')
    with pytest.raises(UserError, match='no state_dict'):
        load_checkpoint(tmp_path / 'odd.pth')


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r'nowhere.pth does not exist'):
        load_checkpoint(tmp_path / 'nowhere.pth')


def test_a_training_checkpoint_of_mmengine_loads(tmp_path):
    hub = MessageHub('test_files')
    hub.update_scalar('train/loss', np.float64(3.0))
    hub.update_info('iter', 3)
    checkpoint = {
        **delta(),
        'message_hub': hub.state_dict(),
        'optimizer': {'state': {}, 'param_groups': [{'lr': np.float64(0.1), 'betas': (0.9, 0.9)}]},
    }
    torch.save(checkpoint, tmp_path / 'epoch_1.pth')
    assert_same(load_checkpoint(tmp_path / 'epoch_1.pth'), delta())
