"""S1, S3: no checkpoint runs code, whatever reads it."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import load_from_local

from hstpeft.apis import init_model, publish
from hstpeft.delta import load_checkpoint
from hstpeft.engine.safe_io import safe_io
from hstpeft.errors import UserError
from tests.support import hostile, tiny
from tools import delta, test
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
    # A module of the hosts takes of honest tensors what fits; of a `last_checkpoint` that names
    # what no training of ours has written nothing is read.
    unread = reader == 'train resume=True of any name'
    is_taken = unread or (reader, name) == ('init_cfg', 'polyglot.safetensors')
    refusal = pytest.raises((UserError, SystemExit))
    with safe_nothing() if is_taken else refusal as info:
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
