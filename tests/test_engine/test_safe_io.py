"""What is entered while we work: what it lets through, and that it leaves nothing behind."""

import io
import json
import os
import pickle
import sys

import mmengine
import pytest
import torch
from mmengine.fileio.handlers import file_handlers
from mmengine.hooks import EMAHook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file
from torch import nn

from hstpeft.compat import checkpoint_schemes
from hstpeft.engine.lookup import find_by_path, import_installed
from hstpeft.engine.safe_io import read_plain, safe_io
from hstpeft.errors import UserError


def settings() -> tuple:
    """Everything that the context changes."""
    registry = sys.modules['mmengine.registry.registry']
    checkpoint = sys.modules['mmengine.runner.checkpoint']
    names = (registry.get_object_from_string, registry.import_module, checkpoint.load_from_http)
    schemes = checkpoint_schemes(CheckpointLoader)
    return dict(os.environ), dict(file_handlers), list(schemes.items()), names


def test_all_comes_back_also_from_within_another_and_after_an_error(monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    before = settings()
    with safe_io():
        within = settings()
        assert within != before
        with pytest.raises(KeyError), safe_io(lambda path, map_location: path):
            assert CheckpointLoader.load_checkpoint('any') == 'any'
            raise KeyError
        assert settings() == within
    assert settings() == before


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_honest_checkpoints_of_others_are_read(tmp_path, suffix):
    path, tensors = tmp_path / f'a{suffix}', nn.Linear(2, 2).state_dict()
    save_file(tensors, path) if suffix == '.safetensors' else torch.save(tensors, path)
    assert all(torch.equal(value, tensors[key]) for key, value in read_plain(path).items())


def test_a_training_checkpoint_of_a_host_is_read(tmp_path):
    history = HistoryBuffer()
    history.update(1.5)
    torch.save({'state_dict': {}, 'message_hub': {'loss': history}}, tmp_path / 'a.pth')
    assert read_plain(tmp_path / 'a.pth')['message_hub']['loss'].mean() == 1.5


@pytest.mark.parametrize('content', [b'', b'text', b'PK\x03\x04'])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_damaged_files_are_refused(tmp_path, content, suffix):
    path = tmp_path / f'a{suffix}'
    path.write_bytes(content)
    with pytest.raises(UserError, match=f'checkpoint {path} cannot be read safely'):
        read_plain(path)
    with pytest.raises(UserError, match='does not exist'):
        read_plain(tmp_path / 'missing.pth')


def test_types_by_path_are_modules_optimisers_and_what_is_registered():
    assert find_by_path('torch.nn.GELU') is nn.GELU
    assert find_by_path('torch.optim.SGD') is torch.optim.SGD
    assert find_by_path('mmengine.hooks.EMAHook') is EMAHook
    with safe_io():
        assert isinstance(MODELS.build(dict(type='torch.nn.GELU')), nn.GELU)
        assert isinstance(HOOKS.build(dict(type='mmengine.hooks.EMAHook')), EMAHook)


@pytest.mark.parametrize(
    'name',
    [
        'os.system', 'subprocess.run', 'builtins.exec', 'torch.load', 'torch.nn.functional.relu',
        'torch.optim.sys', 'torch.nn.init.torch.load', 'mmengine.runner.checkpoint.os.system',
        'mmengine.Config.fromfile', 'antigravity', 'os', '', '.', 'no.such.thing',
    ],
)  # fmt: skip
def test_other_paths_name_nothing(name):
    assert find_by_path(name) is None


def test_only_installed_packages_are_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'stray.py').write_text('raise SystemExit')
    (tmp_path / 'folder').mkdir()
    for name in ('stray', 'stray.registry', 'folder.registry', 'no_such_package.registry'):
        with pytest.raises(ImportError):
            import_installed(name)
    assert import_installed('mmengine.registry') is mmengine.registry


@pytest.mark.parametrize(
    'kind', ['site-packages of the user', 'editable', 'editable by an old pip']
)
def test_packages_of_every_way_to_install_are_imported(tmp_path, monkeypatch, kind):
    home, project = tmp_path / 'home', tmp_path / 'my project'
    root = home if kind.startswith('site') else project / 'src'
    name = f'installed_{len(kind)}'
    (root / name).mkdir(parents=True)
    (root / name / '__init__.py').write_text('')
    info = home / f'{name}-1.0.dist-info'
    info.mkdir(parents=True)
    (info / 'METADATA').write_text(f'Name: {name}\nVersion: 1.0\n')
    monkeypatch.syspath_prepend(root)
    monkeypatch.setattr('site.getusersitepackages', lambda: str(home))
    if kind != 'site-packages of the user':
        direct_url = {'url': project.as_uri(), 'dir_info': {}}
        (info / 'direct_url.json').write_text(json.dumps(direct_url))  # installed from there, once
        with pytest.raises(ImportError, match='no installed package'):
            import_installed(name)
        direct_url['dir_info']['editable'] = True
        if kind == 'editable':
            (info / 'direct_url.json').write_text(json.dumps(direct_url))
        else:
            (home / f'{name}.egg-link').write_text(f'{root}\n../\n')
    assert import_installed(name).__name__ == name


def test_pickles_are_still_written():
    with safe_io():
        assert pickle.loads(mmengine.dump([1], file_format='pkl')) == [1]
        assert mmengine.load(io.StringIO('a: [1]'), file_format='yaml') == {'a': [1]}
        assert mmengine.load(io.StringIO('[1]'), file_format='json') == [1]
