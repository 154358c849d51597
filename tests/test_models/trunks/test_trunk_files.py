"""A trunk reads every dialect its users have, and nothing that runs code."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from hstpeft.delta import fingerprint
from hstpeft.errors import UserError
from hstpeft.models import ViTTrunk
from hstpeft.models.trunks.weights import read_weights
from tests.support.jax_layout import LAYOUTS, to_jax
from tests.support.models import ARCH, VIT, vit_weights


def make_trunk(weights) -> ViTTrunk:
    return ViTTrunk(ARCH, VIT, weights)


def assert_holds(trunk: ViTTrunk, weights: dict) -> None:
    state = trunk.vit.state_dict()
    assert state.keys() == weights.keys()
    assert all(state[key].equal(value) for key, value in weights.items())
    assert trunk.identity == fingerprint(weights)


def mae_style(weights: dict) -> dict:
    decoder = {
        'mask_token': torch.ones(1, 1, 8),
        'decoder_pos_embed': torch.ones(1, 17, 8),
        'decoder_embed.weight': torch.ones(8, 32),
        'decoder_blocks.0.norm1.weight': torch.ones(8),
        'decoder_norm.weight': torch.ones(8),
        'decoder_pred.bias': torch.ones(8),
    }
    return {'model': {**weights, **decoder}}


def deit_style(weights: dict) -> dict:
    head = {'head.weight': torch.ones(3, 32), 'head.bias': torch.ones(3)}
    return {
        'model': {**weights, **head},
        'args': argparse.Namespace(lr=1e-3, model=ARCH, output_dir='/tmp', betas=[0.9, 0.95]),
        'epoch': 299,
        'optimizer': {'state': {}, 'param_groups': [{'lr': 0.1}]},
    }


PICKLES = {
    'bare state dict': dict,
    'MAE': mae_style,
    'DeiT with its command line': deit_style,
    'timm training': lambda w: {'state_dict': w, 'arch': ARCH, 'metric': 0.8},
    'distributed': lambda w: {'model': {f'module.{key}': value for key, value in w.items()}},
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_npz_of_every_layout_gives_the_weights_that_timm_reads(tmp_path, layout):
    weights = vit_weights()
    np.savez(tmp_path / 'vit.npz', **to_jax(weights, VIT['num_heads'], layout))
    trunk = make_trunk(str(tmp_path / 'vit.npz'))
    assert_holds(trunk, weights)
    vit = timm.create_model(ARCH, num_classes=0, **VIT)
    vit.load_pretrained(str(tmp_path / 'vit.npz'))
    timm_state = vit.state_dict()
    assert all(trunk.vit.state_dict()[key].equal(value) for key, value in timm_state.items())


@pytest.mark.parametrize('style', PICKLES)
@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.bin'])
def test_pth_of_every_style_gives_the_trunk_without_classifier_and_decoder(tmp_path, style, suffix):
    weights = vit_weights()
    torch.save(PICKLES[style](weights), tmp_path / f'vit{suffix}')
    assert_holds(make_trunk(str(tmp_path / f'vit{suffix}')), weights)


def test_the_identity_is_the_same_whatever_the_file(tmp_path):
    weights = vit_weights()
    np.savez(tmp_path / 'a.npz', **to_jax(weights, VIT['num_heads'], 'release'))
    torch.save(deit_style(weights), tmp_path / 'b.pth')
    save_file(weights, tmp_path / 'c.safetensors')
    half = {key: value.half() for key, value in weights.items()}
    sources = [tmp_path / 'a.npz', tmp_path / 'b.pth', tmp_path / 'c.safetensors', weights]
    identities = {make_trunk(s if isinstance(s, dict) else str(s)).identity for s in sources}
    assert len(identities) == 1
    assert make_trunk(half).identity not in identities


def test_a_dict_is_copied_not_shared():
    weights = vit_weights()
    trunk = make_trunk(weights)
    weights['cls_token'].zero_()
    assert trunk.vit.cls_token.abs().max() > 0


def test_a_path_may_start_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    save_file(vit_weights(), tmp_path / 'vit.safetensors')
    assert_holds(make_trunk('~/vit.safetensors'), vit_weights())


def test_without_weights_the_identity_is_random():
    assert make_trunk(None).identity == 'random'


class Malicious:
    """Creates a file when it is unpickled without protection."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), 'w')


@pytest.mark.parametrize('place', ['value', 'namespace'])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, place):
    canary = tmp_path / 'canary'
    bad = Malicious(canary)
    content = {'value': bad, 'namespace': argparse.Namespace(hook=bad)}[place]
    torch.save({'model': vit_weights(), 'args': content}, tmp_path / 'evil.pth')
    with pytest.raises(UserError, match=r'evil.pth cannot be read'):
        make_trunk(str(tmp_path / 'evil.pth'))
    assert not canary.exists()


def test_an_npz_with_pickled_objects_is_refused_and_not_run(tmp_path):
    canary = tmp_path / 'canary'
    np.savez(tmp_path / 'evil.npz', cls=np.array([Malicious(canary)], dtype=object))
    with pytest.raises(UserError, match=r'evil.npz cannot be read'):
        make_trunk(str(tmp_path / 'evil.npz'))
    assert not canary.exists()


def write_all(folder: Path) -> dict[str, Path]:
    weights = vit_weights()
    arrays = to_jax(weights, VIT['num_heads'], 'release')
    np.savez(folder / 'plain.npz', **arrays)
    np.savez_compressed(folder / 'packed.npz', **arrays)
    torch.save(weights, folder / 'vit.pth')
    save_file(weights, folder / 'vit.safetensors')
    return {path.name: path for path in folder.iterdir()}


FILES = ['plain.npz', 'packed.npz', 'vit.pth', 'vit.safetensors']


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('damage', ['empty', 'cut', 'text'])
def test_a_damaged_file_is_a_user_error_that_names_it(tmp_path, name, damage):
    path = write_all(tmp_path)[name]
    raw = path.read_bytes()
    path.write_bytes(
        {'empty': b'', 'cut': raw[: len(raw) // 2], 'text': b'404 not found\n'}[damage]
    )
    with pytest.raises(UserError, match=f'{name} cannot be read'):
        make_trunk(str(path))


@pytest.mark.parametrize('name', FILES)
def test_flipped_bytes_give_a_user_error_or_other_numbers_but_no_crash(tmp_path, name):
    path = write_all(tmp_path)[name]
    raw, draws = path.read_bytes(), np.random.default_rng(5)
    for trial in range(30):
        broken = bytearray(raw)
        # Headers lie at both ends: aim half of the flips there.
        place = int(draws.integers(len(raw))) if trial % 2 else int(draws.integers(2000))
        place = -place - 1 if trial % 4 == 0 else place
        broken[place] ^= 1 << int(draws.integers(8))
        path.write_bytes(broken)
        try:
            assert read_weights(str(path), ARCH)
        except UserError as error:
            assert 'trunk.weights' in str(error)


@pytest.mark.parametrize('content', [torch.ones(3), [1, 2], {'model': [1]}, {'cls_token': 'x'}])
def test_a_pth_that_is_no_state_dict_is_a_user_error(tmp_path, content):
    torch.save(content, tmp_path / 'odd.pth')
    with pytest.raises(UserError, match=r'trunk.weights'):
        make_trunk(str(tmp_path / 'odd.pth'))


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r'nowhere/vit.npz does not exist'):
        read_weights('nowhere/vit.npz', ARCH)
