"""Bad input to tools/train.py: one line at the end of stderr, status 1, nothing lost."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image

from tests.support import tiny
from tools.train import main

TRAIN_LIST = 'train800val200.txt'
DATASET, TRUNK = 'train_dataloader.dataset', 'model.backbone.trunk'


class Call(NamedTuple):
    """What the user typed besides the leaf and the work folder."""

    flags: Sequence = ()
    options: Sequence[str] = ()
    config: Path | None = None


def edit_list(task: tiny.Task, change: Callable[[list[str]], list[str]]) -> Call:
    path = task.data / TRAIN_LIST
    path.write_text('\n'.join(change(path.read_text().splitlines())) + '\n')
    return Call()


def bad_leaf(task: tiny.Task, text: str) -> Call:
    path = task.folder / 'bad.py'
    path.write_text(f"_base_ = 'hst_tiny.py'\n{text}\n")
    return Call(config=path)


def truncated(task: tiny.Task, workers: int) -> Call:
    for path in (task.data / 'images' / 'train').iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    return Call(options=[f'train_dataloader.num_workers={workers}'])


def missing_image(task: tiny.Task, workers: int) -> Call:
    for path in (task.data / 'images' / 'train').iterdir():
        path.unlink()
    return Call(options=[f'train_dataloader.num_workers={workers}'])


def small_images(task: tiny.Task) -> Call:
    for path in (task.data / 'images' / 'train').iterdir():
        Image.open(path).resize((7, 40)).save(path)
    return Call()


def file_in_the_way(task: tiny.Task) -> Call:
    (task.folder / 'work').write_text('something of the user')
    return Call()


def damaged_checkpoint(task: tiny.Task) -> Call:
    (task.folder / 'epoch_1.pth').write_bytes(b'PK\3\4 no zip file')
    return Call(['--resume', task.folder / 'epoch_1.pth'])


IMAGE = r'/data/images/train/0000\d\d\.png'
CASES: dict[str, tuple[Callable[[tiny.Task], Call], str]] = {
    'missing config': (
        lambda t: Call(config=t.folder / 'hst_tyni.py'),
        r"config \S+/hst_tyni\.py does not exist: did you mean 'hst_tiny\.py'\?",
    ),
    'config with a syntax error': (
        lambda t: bad_leaf(t, 'model = dict('),
        r'config \S+/bad\.py: .+',
    ),
    'missing weights': (
        lambda t: Call(options=[f'{TRUNK}.weights=/nowhere/vit.npz']),
        r'trunk\.weights /nowhere/vit\.npz does not exist: .+',
    ),
    'missing data folder': (
        lambda t: Call(options=[f'{DATASET}.data_root=/nowhere/data']),
        r'data_root /nowhere/data does not exist: .+',
    ),
    'missing list': (
        lambda t: Call(options=[f'{DATASET}.ann_file=train900.txt']),
        r'ann_file \S+/data/train900\.txt does not exist: .+',
    ),
    'empty list': (lambda t: edit_list(t, lambda lines: []), rf'\S+: .+|.+{TRAIN_LIST}.+'),
    'label out of range': (
        lambda t: edit_list(t, lambda lines: [*lines[:4], lines[4][:-1] + '3', *lines[5:]]),
        rf'label 3 of images/train/000004\.png \(line 5 of {TRAIN_LIST}\) is outside 0\.\.2: .+',
    ),
    'broken line': (
        lambda t: edit_list(t, lambda lines: [*lines[:6], 'images/train/000006.png', *lines[7:]]),
        rf"line 7 of \S+/{TRAIN_LIST} is 'images/train/000006\.png': it must be .+",
    ),
    'truncated image': (
        lambda t: truncated(t, 0),
        rf'image \S+{IMAGE} cannot be decoded \(.+\): .+',
    ),
    'truncated image, workers': (
        lambda t: truncated(t, 2),
        rf'image \S+{IMAGE} cannot be decoded \(.+\): .+',
    ),
    'missing image': (lambda t: missing_image(t, 0), rf'image \S+{IMAGE} does not exist: .+'),
    'missing image, workers': (
        lambda t: missing_image(t, 2),
        rf'image \S+{IMAGE} does not exist: .+',
    ),
    'image smaller than a patch': (
        small_images,
        r'an image of 40 x 7 pixels is smaller than a patch of the trunk \(8 x 8\): .+',
    ),
    'unwritable work folder': (file_in_the_way, r'--work-dir \S+/work is not writable: .+'),
    'missing checkpoint': (
        lambda t: Call(['--resume', '/nowhere/epoch_1.pth']),
        r'checkpoint /nowhere/epoch_1\.pth does not exist',
    ),
    'damaged checkpoint': (damaged_checkpoint, r'checkpoint \S+/epoch_1\.pth cannot be read .+'),
    'amp without a GPU': (
        lambda t: Call(['--amp']),
        r'--amp \(float16\) needs a GPU: use --bf16 .+',
    ),
    'bf16 and RoIAlign': (
        lambda t: bad_leaf(t, "model = dict(roi_head=dict(type='X'))")._replace(flags=['--bf16']),
        r'--bf16: RoIAlign, which model\.roi_head uses, has no bfloat16 kernel: .+',
    ),
    'amp and bf16': (lambda t: Call(['--amp', '--bf16']), r'--amp and --bf16 exclude each other'),
}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('name', CASES)
def test_bad_input_is_one_line_and_loses_nothing(tmp_path, capsys, name):
    if name.startswith('amp') and torch.cuda.is_available():
        pytest.skip('this machine has a GPU')
    make_call, pattern = CASES[name]
    task = tiny.make_task(tmp_path / 'task')
    call = make_call(task)
    before = contents(task.folder)
    config = call.config or task.hst
    line = refusal(
        tiny.arguments(config, task.folder / 'work', *call.flags, options=call.options), capsys
    )
    assert re.fullmatch(f'train\\.py: error: ({pattern})', line), line
    after = contents(task.folder)
    assert before.items() <= after.items()


def refusal(arguments: list[str], capsys) -> str:
    """Run the tool and return the last line of stderr, having checked the manners."""
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 1
    tiny.let_go(exit_info.value)
    error = capsys.readouterr().err
    assert 'Traceback' not in error
    assert error.count('train.py: error:') == 1
    return error.splitlines()[-1]


def test_checkpoint_of_another_trunk_is_refused(trained, tmp_path, capsys):
    other = tiny.make_task(tmp_path / 'other', seed=1)
    line = refusal(tiny.arguments(other.hst, tmp_path / 'w', '--load-from', trained.delta), capsys)
    assert re.search(
        r'made on the trunk \w{12}, the model has the trunk \w{12}: give the weights', line
    )


@pytest.mark.parametrize('flags', [[], ['--allow-new-head']])
def test_checkpoint_of_another_tuner_is_refused(trained, tmp_path, capsys, flags):
    flags = ['--load-from', trained.delta, *flags]
    line = refusal(tiny.arguments(trained.task.linear, tmp_path / 'w', *flags), capsys)
    assert 'the tuner HSTTuner, the model has FrozenTuner' in line


@pytest.mark.parametrize('key', ['backbone.tuner.meta_tokens.1', 'neck.norm.running_var'])
@pytest.mark.parametrize('flag', ['--load-from', '--resume'])
def test_checkpoint_with_a_missing_key_is_refused(trained, tmp_path, capsys, key, flag):
    checkpoint = tiny.load(trained.work_dir / 'epoch_2.pth')
    del checkpoint['state_dict'][key]
    torch.save(checkpoint, tmp_path / 'epoch_2.pth')
    call = tiny.arguments(trained.task.hst, tmp_path / 'w', flag, tmp_path / 'epoch_2.pth')
    assert f'missing: {key.removeprefix("backbone.")}' in refusal(call, capsys)


def test_the_traceback_is_there_when_asked_for(task, tmp_path, monkeypatch):
    monkeypatch.setenv('HSTPEFT_TRACEBACK', '1')
    with pytest.raises(ValueError, match='does not exist'):
        main(tiny.arguments(task.hst, tmp_path / 'w', '--load-from', '/nowhere'))
