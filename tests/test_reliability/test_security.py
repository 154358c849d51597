"""S1 to S4: no file but a Python config runs code, whatever reads it."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import mmengine
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import load_from_local

from hstpeft.apis import init_model, publish
from hstpeft.delta import load_checkpoint
from hstpeft.engine.config import load_config
from hstpeft.engine.safe_io import safe_io
from hstpeft.errors import UserError
from tests.support import hostile, tiny
from tools import delta, test
from tools.analysis import browse_dataset
from tools.model_converters import hst

Run = Callable[[tiny.Task, Path, Path], object]
"""Task, hostile file and a folder for output -> a tool or a function reads the file."""
TRUNK = 'model.backbone.trunk.weights'


def with_last(name: str, *flags: str, options: tuple[str, ...] = ()) -> Run:
    """Train where the newest checkpoint of the work folder is the hostile file."""

    def run(task: tiny.Task, file: Path, out: Path) -> object:
        out.mkdir()
        shutil.copy(file, out / name)
        (out / 'last_checkpoint').write_text(str(out / name))
        return tiny.train(task.hst, out, *flags, options=options)

    return run


def pretrained(task: tiny.Task, file: Path, out: Path) -> None:
    """Build a module of the hosts whose config names the file."""
    with safe_io():
        MODELS.build(
            dict(
                type='mmpretrain.ResNet',
                depth=18,
                init_cfg=dict(type='Pretrained', checkpoint=str(file)),
            )
        ).init_weights()


READERS: dict[str, Run] = {
    'train --load-from': lambda t, f, o: tiny.train(t.hst, o, '--load-from', f),
    'train --resume FILE': lambda t, f, o: tiny.train(t.hst, o, '--resume', f),
    'train --resume': with_last('epoch_1.pth', '--resume'),
    'train resume=True': with_last('epoch_1.pth', options=('resume=True',)),
    'train resume=True of any name': with_last('best.safetensors', options=('resume=True',)),
    'train load_from=': lambda t, f, o: tiny.train(t.hst, o, options=(f'load_from={f}',)),
    'train trunk.weights': lambda t, f, o: tiny.train(t.hst, o, options=(f'{TRUNK}={f}',)),
    'test': lambda t, f, o: test.main(tiny.arguments(t.hst, o, str(f))),
    'delta info': lambda t, f, o: delta.main(['info', str(f)]),
    'delta export': lambda t, f, o: delta.main(['export', str(f), f'{o}.safetensors']),
    'delta import': lambda t, f, o: delta.main(['import', str(f), f'{o}.pth']),
    'delta merge': lambda t, f, o: delta.main(['merge', str(t.hst), str(f), f'{o}.safetensors']),
    'to-delta': lambda t, f, o: hst.main(['to-delta', str(t.hst), str(f), f'{o}.pth']),
    'to-official': lambda t, f, o: hst.main(['to-official', str(t.hst), str(f), f'{o}.pth']),
    'init_model': lambda t, f, o: init_model(t.hst, f),
    'init_model trunk': lambda t, f, o: init_model(t.hst, cfg_options={TRUNK: str(f)}),
    'publish': lambda t, f, o: publish(f, f'{o}.pth'),
    'init_cfg': pretrained,
}  # fmt: skip


@pytest.mark.parametrize('name', hostile.FILES)
def test_S1_the_payloads_work_where_nobody_takes_care(tmp_path, name):
    """The control: mmengine's own reader runs each of them."""
    path = hostile.FILES[name](tmp_path / name, tmp_path)
    with pytest.raises((RuntimeError, AttributeError)) if 'polyglot' in name else safe_nothing():
        load_from_local(str(path), 'cpu')
    assert hostile.has_run(tmp_path)


@pytest.mark.parametrize('name', hostile.FILES)
@pytest.mark.parametrize('reader', READERS)
def test_S1_no_checkpoint_runs_code(task, tmp_path, monkeypatch, reader, name):
    monkeypatch.chdir(tmp_path)
    path = hostile.FILES[name](tmp_path / name, tmp_path)
    # Refused; a module of the hosts takes of honest tensors what fits.
    refusal = pytest.raises((UserError, SystemExit))
    with (
        safe_nothing()
        if (reader, name) == ('init_cfg', 'polyglot.safetensors')
        else refusal as info
    ):
        READERS[reader](task, path, tmp_path / 'out')
    assert not hostile.has_run(tmp_path)
    assert not isinstance(getattr(info, 'value', None), SystemExit) or info.value.code == 1


def safe_nothing() -> safe_io:
    """Expect no error."""
    return pytest.MonkeyPatch.context()


def test_S1_the_message_names_what_the_file_holds(task, tmp_path, capsys):
    path = hostile.write_pickle(tmp_path / 'epoch_1.pth', tmp_path)
    with pytest.raises(SystemExit):
        tiny.train(task.hst, tmp_path / 'work', '--resume', path)
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        error == f'train.py: error: checkpoint {path} cannot be read safely: it holds posix.system'
    )


def test_S1_attributes_other_than_those_of_the_history_are_refused(tmp_path):
    torch.save({'state_dict': {}, 'meta': {'epoch': hostile.Attribute()}}, tmp_path / 'epoch_1.pth')
    with pytest.raises(UserError, match=r'it holds __init__ of <class'):
        load_checkpoint(tmp_path / 'epoch_1.pth')


def test_S1_nothing_unpickles_while_we_are_at_work(tmp_path):
    """Also a host that asks for it, as mmengine's readers of buckets do."""
    path = hostile.write_pickle(tmp_path / 'a.pth', tmp_path)
    with safe_io(), pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=False)
    assert not hostile.has_run(tmp_path)
    torch.load(path, weights_only=False)
    assert hostile.has_run(tmp_path)  # what was before has come back


@pytest.mark.slow
@pytest.mark.parametrize('guarded', [True, False])
@pytest.mark.parametrize('by_option', [True, False])
def test_S3_config_text_in_a_checkpoint_is_not_run(trained, tmp_path, guarded, by_option):
    """mmengine's resume evaluates meta['config'] as a program."""
    leaf = trained.task.hst
    if not guarded:
        leaf = leaf.with_name('unguarded.py')
        leaf.write_text("_base_ = 'hst_tiny.py'\ncustom_hooks = []\n")
    checkpoint = tiny.load(trained.work_dir / 'epoch_3.pth')
    checkpoint['meta']['config'] = f'import os\nos.system({hostile.command(tmp_path)!r})\n'
    path = tmp_path / 'epoch_3.pth'
    torch.save(checkpoint, path)
    if by_option:
        with_last('epoch_3.pth', options=('resume=True',))(
            tiny.Task(*[leaf] * 5), path, tmp_path / 'w'
        )
    else:
        tiny.train(leaf, tmp_path / 'w', '--resume', path)
    assert not hostile.has_run(tmp_path)


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
