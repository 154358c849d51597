"""S4, S5: no config of data runs code, and no config of a stranger that `--safe-config` lets through."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import mmengine
import pytest
from mmengine.config import Config
from mmengine.registry import MODELS

from hstpeft.apis import init_model
from hstpeft.engine.checks.safe_config import SHIPPED_PROGRAMS, check_safe_config
from hstpeft.engine.config import config_root, load_config
from hstpeft.engine.safe_io import safe_io
from hstpeft.errors import UserError
from tests.support import hostile, tiny
from tests.support.paths import ROOT
from tools import delta
from tools.analysis import browse_dataset, get_flops
from tools.model_converters import hst


def yaml_config(task: tiny.Task, folder: Path) -> Path:
    return hostile.write_yaml(folder / 'config.yaml', folder, _base_=str(task.hst))


def yaml_base(task: tiny.Task, folder: Path) -> Path:
    hostile.write_yaml(folder / 'base.yml', folder)
    path = folder / 'config.py'
    path.write_text(f"_base_ = [{str(task.hst)!r}, 'base.yml']\n")
    return path


def data_config(**settings: object) -> Callable[[tiny.Task, Path], Path]:
    """Make a writer of a JSON config with settings in which COMMAND is that of the payload."""

    def write(task: tiny.Task, folder: Path) -> Path:
        text = json.dumps({'_base_': str(task.hst), **settings})
        (folder / 'config.json').write_text(text.replace('COMMAND', hostile.command(folder)))
        return folder / 'config.json'

    return write


def pickled_annotations(task: tiny.Task, folder: Path) -> Path:
    (folder / 'a.pkl').write_bytes(
        pickle.dumps({'metainfo': {}, 'data_list': [hostile.Payload(folder)]})
    )
    dataset = dict(_delete_=True, type='mmpretrain.BaseDataset', ann_file=str(folder / 'a.pkl'))
    return data_config(train_dataloader=dict(dataset=dataset))(task, folder)


def transform(kind: str, **options: object) -> dict:
    pipeline = [dict(type='LoadImageFromFile'), dict(type=kind, **options)]
    return dict(train_dataloader=dict(dataset=dict(pipeline=pipeline)))


EXPRESSION = "__import__('os').system('COMMAND')"
CONFIGS = {
    'yaml': yaml_config,
    'yaml base': yaml_base,
    'pickled annotations': pickled_annotations,
    'hook by path': data_config(custom_hooks=[dict(type='os.system', command='COMMAND')]),
    'transform by path': data_config(**transform('subprocess.getoutput', cmd='COMMAND')),
    'model by path': data_config(model=dict(_delete_=True, type='os.system', command='COMMAND')),
    'path through a host': data_config(
        **transform('mmengine.runner.checkpoint.os.system', command='COMMAND')
    ),
    'dtype': data_config(
        **transform('mmpretrain.torchvision/ConvertImageDtype', dtype=f'float, {EXPRESSION}')
    ),
    'scope': data_config(default_scope='evil'),
}  # fmt: skip


@pytest.mark.parametrize('kind', CONFIGS)
@pytest.mark.parametrize('tool', ['train', 'browse_dataset', 'init_model'])
def test_S4_no_config_of_data_runs_code(task, tmp_path, monkeypatch, kind, tool):
    monkeypatch.syspath_prepend(tmp_path)  # as a clone into which somebody has unpacked it
    (tmp_path / 'evil').mkdir()
    (tmp_path / 'evil' / '__init__.py').write_text('')
    (tmp_path / 'evil' / 'registry.py').write_text(
        f'import os\nos.system("{hostile.command(tmp_path)}")'
    )
    config = CONFIGS[kind](task, tmp_path)
    try:
        if tool == 'train':
            tiny.train(config, tmp_path / 'out', '--dry-run')
        elif tool == 'browse_dataset':
            browse_dataset.main(
                [str(config), '--number', '1', '--output-dir', str(tmp_path / 'out')]
            )
        else:
            init_model(config)
    except (UserError, SystemExit, KeyError):  # KeyError: what a registry says of a type
        pass
    finally:
        assert not hostile.has_run(tmp_path)


def test_S4_a_pickle_is_refused_with_a_remedy(task, tmp_path, capsys):
    with pytest.raises(SystemExit):
        tiny.train(pickled_annotations(task, tmp_path), tmp_path / 'out')
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"train_dataloader.dataset.ann_file = '{tmp_path}/a.pkl' is refused" in error
    assert 'convert it to JSON' in error
    with safe_io(), pytest.raises(UserError, match='convert it to JSON'):
        mmengine.load(tmp_path / 'a.pkl')
    assert not hostile.has_run(tmp_path)


@pytest.mark.parametrize('kind', ['yaml', 'yaml base'])
def test_S4_the_message_names_the_file(task, tmp_path, kind):
    with pytest.raises(UserError, match=r'config .*config\.\w+: YAML .* is no plain data'):
        load_config(CONFIGS[kind](task, tmp_path))


def test_S4_the_payloads_work_where_nobody_takes_care(task, tmp_path):
    """The control: mmengine's own ways run them."""
    Config.fromfile(yaml_config(task, tmp_path))
    assert hostile.has_run(tmp_path)
    MODELS.build(dict(type='os.system', command=hostile.command(tmp_path)))
    assert hostile.has_run(tmp_path)


CONFIG_FILES = sorted((ROOT / 'configs').rglob('*.py'))


def test_S5_our_own_configs_are_safe():
    """Each by its own text; the three that look at the user's data are named, and could not be."""
    assert len(CONFIG_FILES) > 100
    for path in CONFIG_FILES:
        check_safe_config(path, config_root())
    for name in SHIPPED_PROGRAMS:
        with pytest.raises(UserError, match='Import is not allowed'):
            check_safe_config(config_root() / name)


STATEMENTS = {
    'import': 'import os',
    'from import': 'from os import system',
    'call': 'x = print(1)',
    'call of a method': "x = 'a'.format(1)",
    'dunder': 'x = dict.__subclasses__',
    'dunder of a base': 'x = _base_.__class__',
    'dunder by get': "x = dict.get(__builtins__, 'eval')",
    'function as a value': 'x = dict(type=exec)',
    'function set later': 'x = dict(type=exec)\nexec = 1',
    'lambda': 'x = lambda: 1',
    'def': 'def f():\n    pass',
    'class': 'class A:\n    pass',
    'with': 'with open(1):\n    pass',
    'decorator': '@dict\nclass A:\n    pass',
    'star import': 'from os import *',
    'walrus': 'x = [y := 1]',
    'format': "y = 1\nx = f'{y!r:>9}'",
    'power': 'x = 9 ** 9 ** 9',
    'try': 'try:\n    x = 1\nexcept ValueError:\n    x = 2',
    'while': 'while True:\n    x = 1',
    'custom_imports': "custom_imports = dict(imports=['os'])",
    'other error': "raise SystemExit('x')",
    'assert': 'assert dict()',
    'computed base': "_base_ = ['a' + '.py']",
    'second base': "_base_ = []\n_base_ = ['other.py']",
    'base in an if': "if True:\n    _base_ = ['other.py']",
    'package base': "_base_ = 'mmdet::_base_/default_runtime.py'",
    'address as base': "_base_ = 'https://127.0.0.1/a.yaml'",
    'missing base': "_base_ = 'missing.py'",
    'own base': "_base_ = 'config.py'",
    # mmengine replaces them in the text, before Python reads it.
    'default that breaks out': "x = '{{$A_ROOT:' + __import__('os').system('true') + '}}'",
    'secret': "x = '{{$AWS_SECRET_ACCESS_KEY:none}}'",
    'variable with a quote': "x = {{'$A_ROOT:1'}}",
    'base variable': 'x = {{ _base_.lr }}',
    'zero byte': 'x = 1\0',
    'deep': f"x = {'(' * 500}1{')' * 500}",
}  # fmt: skip


@pytest.mark.parametrize('kind', STATEMENTS)
def test_S5_a_config_that_does_more_than_set_values_is_refused(tmp_path, kind):
    path = tmp_path / 'config.py'
    path.write_text(STATEMENTS[kind] + '\n')
    with pytest.raises(UserError, match='--safe-config: '):
        load_config(path, safe=True)


@pytest.mark.parametrize('name', ['base.py', 'base.yaml', 'base.json'])
def test_S5_bases_are_checked_as_well(tmp_path, name):
    text = {'base.py': 'import os', 'base.yaml': 'x: !!python/name:os.system'}
    (tmp_path / name).write_text(text.get(name, '{"custom_imports": {"imports": ["os"]}}'))
    (tmp_path / 'between.py').write_text(f'_base_ = {name!r}\n')
    (tmp_path / 'config.py').write_text("_base_ = ['between.py']\n")
    with pytest.raises(UserError, match=f'--safe-config: {tmp_path}/{name}'):
        load_config(tmp_path / 'config.py', safe=True)


def test_S5_a_file_named_as_one_of_ours_is_not_trusted_elsewhere(tmp_path):
    path = tmp_path / SHIPPED_PROGRAMS[0]
    path.parent.mkdir(parents=True)
    path.write_text('import os\n')
    with pytest.raises(UserError, match='Import is not allowed'):
        check_safe_config(path, config_root())


def test_S5_a_folder_cannot_break_out_of_a_string(tmp_path):
    folder = tmp_path / "a' + exit() + '"
    folder.mkdir()
    (folder / 'config.py').write_text("x = '{{ fileDirname }}'\n")
    with pytest.raises(UserError, match='the path of the file has a quote'):
        load_config(folder / 'config.py', safe=True)


TOOLS = {
    'train': lambda config, out: tiny.train(config, out, '--safe-config'),
    'browse_dataset': lambda config, out: browse_dataset.main([str(config), '--safe-config']),
    'get_flops': lambda config, out: get_flops.main([str(config), '--safe-config']),
    'delta merge': lambda config, out: delta.main(
        ['merge', str(config), 'delta.pth', f'{out}.safetensors', '--safe-config']
    ),
    'converter': lambda config, out: hst.main(
        ['to-delta', str(config), 'a.pth', f'{out}.pth', '--safe-config']
    ),
}


@pytest.mark.parametrize('tool', TOOLS)
def test_S5_every_tool_refuses_before_anything_runs(tmp_path, capsys, tool):
    path = tmp_path / 'config.py'
    path.write_text(f'import os\nos.system({hostile.command(tmp_path)!r})\n')
    with pytest.raises(SystemExit, match='1'):
        TOOLS[tool](path, tmp_path / 'out')
    assert f'error: --safe-config: {path}:1: Import is not allowed' in capsys.readouterr().err
    assert not hostile.has_run(tmp_path)


def test_S5_a_safe_config_trains(task, tmp_path):
    """A leaf like ours, in a folder of its own."""
    tiny.train(task.hst, tmp_path / 'out', '--safe-config', '--dry-run')
