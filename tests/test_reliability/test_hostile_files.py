"""Files of strangers: refused in one line, nothing run, no memory taken (S1, S7, S11, S13)."""

import argparse
import json
import os
import pickle
import shutil
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from hstpeft.delta import load_checkpoint, save_delta
from hstpeft.delta.digest import digest
from hstpeft.errors import UserError
from hstpeft.models.trunks.weights import read_weights
from tests.support import tiny
from tests.support.deltas import SUFFIXES, assert_same, delta
from tests.support.models import vit_weights
from tools.delta import main as run_delta
from tools.model_converters.convert import read_official
from tools.model_converters.hst import main as run_converter
from tools.test import main as run_test

ARCH = 'vit_tiny_patch16_224'
READERS = {
    'checkpoint': load_checkpoint,
    'official': read_official,
    'trunk': lambda path: read_weights(str(path), ARCH),
}


class Payload:
    """Makes a folder when it is unpickled without care."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def canary(tmp_path) -> Path:
    return tmp_path / 'canary'


@pytest.fixture
def evil(tmp_path, canary) -> Path:
    """A file that all readers would take, were it not for one value."""
    weights = vit_weights()
    content = {'state_dict': {**weights, 'hook': Payload(canary)}, 'meta': {}}
    torch.save(content, tmp_path / 'evil.pth')
    return tmp_path / 'evil.pth'


# --- S1


def test_S1_the_payload_works_where_nobody_takes_care(evil, canary):
    """The control: the attack is a real one."""
    torch.load(evil, weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('reader', READERS)
def test_S1_no_reader_runs_a_pickle(evil, canary, reader, legacy):
    if legacy:
        content = {'state_dict': {'hook': Payload(canary)}, 'meta': {}}
        torch.save(content, evil, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r'evil\.pth cannot be read safely: it holds posix\.mkdir$'):
        READERS[reader](evil)
    assert not canary.exists()


def test_S1_no_tool_runs_a_pickle_and_each_says_so_in_one_line(
    trained, evil, canary, tmp_path, capsys
):
    out = tmp_path / 'out'
    leaf = str(trained.task.hst)
    calls = {
        'test.py': lambda: run_test(tiny.arguments(leaf, out, evil)),
        'delta.py': lambda: run_delta(['info', str(evil)]),
        'delta.py export': lambda: run_delta(['export', str(evil), f'{out}.safetensors']),
        'delta.py import': lambda: run_delta(['import', str(evil), f'{out}.pth']),
        'delta.py merge': lambda: run_delta(['merge', leaf, str(evil), f'{out}.safetensors']),
        'hst.py': lambda: run_converter(['to-delta', leaf, str(evil), f'{out}.pth']),
        'hst.py back': lambda: run_converter(['to-official', leaf, str(evil), f'{out}.pth']),
        'train.py': lambda: tiny.train(leaf, out, '--load-from', evil),
        'train.py resume': lambda: tiny.train(leaf, out, '--resume', evil),
    }
    for tool, call in calls.items():
        with pytest.raises(SystemExit, match='1'):
            call()
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f'{tool.split()[0]}: error: checkpoint {evil} cannot be read'), tool
        assert 'weights_only' not in line, tool
        assert not canary.exists(), tool


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_S1_a_polyglot_is_one_of_its_kinds_or_refused(tmp_path, canary, suffix):
    """A file that is valid safetensors, and behind its header a pickle."""
    pickled = pickle.dumps({'state_dict': {'hook': Payload(canary)}})
    header = json.dumps(
        {'a': dict(dtype='U8', shape=[len(pickled)], data_offsets=[0, len(pickled)])}
    )
    path = tmp_path / f'delta{suffix}'
    path.write_bytes(struct.pack('<Q', len(header)) + header.encode() + pickled)
    with pytest.raises(UserError, match=r'cannot be read safely|has no state_dict'):
        load_checkpoint(path)
    assert not canary.exists()


def test_S1_what_the_user_vouches_for_is_read_and_said(tmp_path, capsys):
    path = tmp_path / 'theirs.pth'
    content = {**delta(), 'options': argparse.Namespace(lr=1)}
    torch.save(content, path)
    with pytest.raises(UserError, match=r'it holds argparse\.Namespace'):
        load_checkpoint(path)
    assert load_checkpoint(path, trust=True)['options'].lr == 1
    assert f'checkpoint {path} is trusted: it may run programs' in ''.join(capsys.readouterr())
    run_delta(['import', str(path), str(tmp_path / 'ours.pth'), '--trust-checkpoint'])
    assert_same(load_checkpoint(tmp_path / 'ours.pth'), delta())


def test_S1_trust_is_for_one_call(evil, canary):
    load_checkpoint(evil, trust=True)
    assert canary.exists()
    canary.rmdir()
    with pytest.raises(UserError):
        load_checkpoint(evil)
    assert not canary.exists()


# --- what is no checkpoint, and says what it seems to be


def npz(path: Path) -> None:
    with open(path, 'wb') as file:
        np.savez(file, cls=np.zeros(3))


SEEMS = {
    'text': (lambda p: p.write_text('5\nsome notes\n'), 'it seems to be a text'),
    'page': (lambda p: p.write_text('<!DOCTYPE html><p>Sign in'), 'it seems to be a web page'),
    'pointer': (
        lambda p: p.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:00\n'),
        'pointer of Git LFS',
    ),
    'empty': (lambda p: p.write_bytes(b''), 'it is empty'),
    'gzip': (lambda p: p.write_bytes(b'\x1f\x8b\x08' + bytes(90)), 'compressed archive'),
    'npz': (npz, r'numpy archive \(\.npz\).*trunk\.weights'),
    'safetensors': (
        lambda p: (save_delta(delta(), p.with_suffix('.safetensors')).bit_length(),
                   p.with_suffix('.safetensors').rename(p)),
        'safetensors file: its name must end in',
    ),
    'trunk': (lambda p: torch.save(vit_weights(), p), 'weights of a trunk.*trunk.weights'),
    'official': (lambda p: torch.save({'model': vit_weights()}, p), 'official checkpoint: convert'),
}  # fmt: skip


@pytest.mark.parametrize('kind', SEEMS)
def test_S1_what_is_no_delta_says_what_it_seems_to_be(tmp_path, kind):
    write, message = SEEMS[kind]
    write(tmp_path / 'delta.pth')
    with pytest.raises(UserError, match=message) as error:
        load_checkpoint(tmp_path / 'delta.pth')
    assert '\n' not in str(error.value)
    assert 'weights_only' not in str(error.value) and 'KeyError' not in str(error.value)


def test_S1_the_weights_of_a_trunk_as_safetensors_are_no_delta(task):
    with pytest.raises(UserError, match=r'no state_dict.*give them as model\.backbone\.trunk'):
        load_checkpoint(task.weights)


# --- bombs


@pytest.fixture(scope='module')
def bomb(tmp_path_factory) -> Path:
    """A zip as torch and numpy write them, whose one large record is zeros, compressed."""
    path = tmp_path_factory.mktemp('bomb') / 'bomb.pth'
    torch.save({'state_dict': {'a': torch.zeros(4)}, 'meta': {}}, path)
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for record, content in records.items():
            archive.writestr(record, content)
        archive.writestr('archive/data/9', bytes(1 << 28))
    assert path.stat().st_size < 1 << 20
    return path


@pytest.mark.parametrize(
    ('reader', 'suffix'), [*((reader, '.pth') for reader in READERS), ('trunk', '.npz')]
)
def test_S1_a_bomb_is_refused_without_memory(bomb, tmp_path, reader, suffix):
    path = shutil.copy(bomb, tmp_path / f'bomb{suffix}')
    tracemalloc.start()
    with pytest.raises(UserError, match=r'compressed records|unpack to'):
        READERS[reader](path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_S1_tensors_that_stand_for_more_than_the_file_are_refused(tmp_path):
    huge = torch.zeros(1).expand(1 << 20, 1 << 20)
    torch.save({'state_dict': {'a': huge}, 'meta': {}, 'sha256': '0' * 64}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match='stand for more than'):
        load_checkpoint(tmp_path / 'a.pth')
    deep: list = []
    for _ in range(50):  # two to the power of fifty leaves, if each is counted anew
        deep = [deep, deep]
    assert len(digest(deep)) == 64


# --- S7


def test_S7_a_pickled_array_is_refused(tmp_path, canary):
    np.savez(tmp_path / 'vit.npz', cls=np.array([Payload(canary)], dtype=object))
    with pytest.raises(UserError, match=r'vit\.npz cannot be read: .*allow_pickle=False'):
        read_weights(str(tmp_path / 'vit.npz'), ARCH)
    assert not canary.exists()


def test_S7_the_payload_works_where_pickles_are_allowed(tmp_path, canary):
    """The control."""
    np.savez(tmp_path / 'vit.npz', cls=np.array([Payload(canary)], dtype=object))
    np.load(tmp_path / 'vit.npz', allow_pickle=True)['cls']
    assert canary.exists()


# --- S11


def tensors(**entries) -> bytes:
    header = json.dumps(entries).encode()
    return struct.pack('<Q', len(header)) + header + bytes(64)


def entry(begin: int, end: int, dtype: str = 'F32', shape: tuple = (8,)) -> dict:
    return dict(dtype=dtype, shape=shape, data_offsets=[begin, end])


MALFORMED = {
    'header beyond the file': struct.pack('<Q', 1 << 40) + b'{}',
    'header of 2^64': struct.pack('<Q', (1 << 64) - 1) + b'{}',
    'header that is no JSON': struct.pack('<Q', 8) + b'{"a": [}' + bytes(64),
    'overlap': tensors(a=entry(0, 32), b=entry(16, 48)),
    'hole': tensors(a=entry(0, 16, shape=(4,)), b=entry(32, 64)),
    'beyond the end': tensors(a=entry(0, 64, shape=(16,)), b=entry(64, 96)),
    'unknown type': tensors(a=entry(0, 32, 'F99'), b=entry(32, 64)),
    'size of another type': tensors(a=entry(0, 32, 'F64'), b=entry(32, 64)),
    'overflowing shape': tensors(a=entry(0, 32, shape=(1 << 62, 8)), b=entry(32, 64)),
    'negative shape': tensors(a=entry(0, 32, shape=(-8,)), b=entry(32, 64)),
    'meta that are no JSON': tensors(__metadata__={'meta': '{'}, a=entry(0, 64, shape=(16,))),
    'deep meta': tensors(__metadata__={'meta': '[' * 10**5}, a=entry(0, 64, shape=(16,))),
    'nothing': b'',
    'short': b'1234',
}


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('kind', MALFORMED)
def test_S11_malformed_safetensors_are_one_line(tmp_path, kind, reader):
    path = tmp_path / 'bad.safetensors'
    path.write_bytes(MALFORMED[kind])
    if reader == 'trunk' and 'meta' in kind:
        assert read_weights(str(path), ARCH)  # they are nothing to a trunk
        return
    with pytest.raises(UserError, match=r'bad\.safetensors cannot be read') as error:
        READERS[reader](path)
    assert '\n' not in str(error.value)


def test_S11_a_type_changed_to_one_of_the_same_size_is_seen(tmp_path):
    path = tmp_path / 'hst.safetensors'
    save_delta(delta(), path)
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"', 1))
    with pytest.raises(UserError, match='is damaged'):
        load_checkpoint(path)


# --- S13


@pytest.mark.slow
@pytest.mark.parametrize('suffix', SUFFIXES)
def test_S13_a_thousand_flipped_bytes_are_refused_or_harmless(tmp_path, suffix):
    path, draws, expected = tmp_path / f'hst{suffix}', np.random.default_rng(2), delta()
    save_delta(expected, path)
    raw, refused = path.read_bytes(), 0
    for trial in range(1000):
        broken = bytearray(raw)
        # Half of them where the structure lies: at either end of the file.
        place = int(draws.integers(len(raw) if trial % 2 else 3000))
        broken[-place - 1 if trial % 4 == 0 else place] ^= int(draws.integers(1, 256))
        path.write_bytes(broken)
        try:
            assert_same(load_checkpoint(path), expected)
        except UserError as error:
            refused += 1
            assert path.name in str(error) and '\n' not in str(error)
    assert refused > 800


def test_S13_without_a_hash_flipped_values_load(tmp_path):
    """The control: a file as version 0.1 wrote them, whose one bit nobody misses."""
    path, expected = tmp_path / 'hst.safetensors', delta()
    save_delta(expected, path)
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], 'little')
    header = json.loads(raw[8 : 8 + size])
    header['__metadata__'] = {'meta': json.dumps(expected['meta'])}
    text = json.dumps(header).encode()
    data = bytearray(raw[8 + size :])
    data[-1000] ^= 1
    path.write_bytes(struct.pack('<Q', len(text)) + text + bytes(data))
    with pytest.raises(AssertionError):
        assert_same(load_checkpoint(path), expected)


def test_S13_the_file_is_opened_once(tmp_path, monkeypatch):
    """Nothing can be changed between a check and the reading."""
    opened, real = [], open

    def counted(file, *args, **kwargs):
        opened.append(os.fspath(file) if not isinstance(file, int) else file)
        return real(file, *args, **kwargs)

    monkeypatch.setattr('builtins.open', counted)
    for suffix in SUFFIXES:
        path = tmp_path / f'hst{suffix}'
        save_delta(delta(), path)
        opened.clear()
        load_checkpoint(path)
        assert opened.count(path) + opened.count(str(path)) == 1
