"""Delta files: small, plain, atomic, and never trusted."""

import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub

from hstpeft.delta import files, load_checkpoint, make_delta, save_delta
from hstpeft.delta.identity import Identity, encode_identity
from hstpeft.errors import UserError
from tests.support.models import build, classifier_config

SUFFIXES = ['.pth', '.safetensors']


def delta(seed: int = 0) -> dict:
    state = build(classifier_config(), seed=seed).state_dict()
    meta = {'epoch': 3, 'dataset_meta': {'classes': ('cat', 'dog')}}
    return make_delta({'state_dict': state, 'meta': meta})


def assert_same(a: dict, b: dict) -> None:
    assert a['meta'] == b['meta']
    assert a['state_dict'].keys() == b['state_dict'].keys()
    assert all(a['state_dict'][key].equal(value) for key, value in b['state_dict'].items())


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


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_a_file_is_no_larger_than_its_tensors_and_64_kib(tmp_path, suffix):
    saved = delta()
    size = sum(value.numel() * value.element_size() for value in saved['state_dict'].values())
    assert save_delta(saved, tmp_path / f'hst{suffix}') <= size + 64 * 1024
    view = {'state_dict': {'row': torch.ones(1000, 1000)[3]}, 'meta': {}}
    assert save_delta(view, tmp_path / f'view{suffix}') < 16 * 1024


def test_safetensors_are_byte_stable_over_save_load_save(tmp_path):
    first, second = tmp_path / 'a.safetensors', tmp_path / 'b.safetensors'
    save_delta(delta(), first)
    save_delta(load_checkpoint(first), second)
    assert first.read_bytes() == second.read_bytes()


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
@pytest.mark.parametrize('failing', ['write', 'rename'])
def test_a_failing_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch, suffix, failing):
    path = tmp_path / f'hst{suffix}'
    save_delta(delta(0), path)
    before = path.read_bytes()

    def full_disk(content, target, *args, **kwargs):
        if failing == 'write':
            Path(target).write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    if failing == 'write':
        monkeypatch.setattr(files.torch, 'save', full_disk)
        monkeypatch.setattr(files, 'save_file', full_disk)
    else:
        monkeypatch.setattr(files.os, 'replace', full_disk)
    with pytest.raises(OSError, match='No space'):
        save_delta(delta(1), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize('suffix', SUFFIXES)
@pytest.mark.parametrize('damage', ['empty', 'cut', 'text'])
def test_a_damaged_file_is_a_user_error_that_names_it(tmp_path, suffix, damage):
    path = tmp_path / f'hst{suffix}'
    save_delta(delta(), path)
    raw = path.read_bytes()
    path.write_bytes({'empty': b'', 'cut': raw[: len(raw) // 2], 'text': b'<html>'}[damage])
    with pytest.raises(UserError, match=f'hst{suffix} cannot be read'):
        load_checkpoint(path)


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_flipped_bytes_are_a_user_error_or_other_numbers(tmp_path, suffix):
    path, draws = tmp_path / f'hst{suffix}', np.random.default_rng(2)
    save_delta(delta(), path)
    raw = path.read_bytes()
    for trial in range(60):
        broken = bytearray(raw)
        place = int(draws.integers(len(raw))) if trial % 2 else int(draws.integers(3000))
        broken[-place - 1 if trial % 4 == 0 else place] ^= 1 << int(draws.integers(8))
        path.write_bytes(broken)
        try:
            assert 'state_dict' in load_checkpoint(path)
        except UserError as error:
            assert path.name in str(error)


class Malicious:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), 'w')


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path):
    canary = tmp_path / 'canary'
    torch.save({**delta(), 'hook': Malicious(canary)}, tmp_path / 'evil.pth')
    with pytest.raises(UserError, match=r'evil.pth cannot be read safely'):
        load_checkpoint(tmp_path / 'evil.pth')
    assert not canary.exists()


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
