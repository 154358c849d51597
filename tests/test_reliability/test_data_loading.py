"""D3 to D7: workers that die or raise, odd numbers of images, read-only data, who sees what."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmengine.dataset.sampler as samplers
import pytest
import torch
from mmengine.dataset import DefaultSampler
from torch.utils.data import get_worker_info

from hstpeft.datasets import VTAB1k
from hstpeft.errors import UserError
from tests.support import tiny
from tools import test as test_tool

ONE_EPOCH = ('train_cfg.max_epochs=1', 'train_cfg.val_interval=1')


def in_workers(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Let every loader worker do something when it is asked for an image."""
    prepare = VTAB1k.prepare_data

    def patched(self: VTAB1k, index: int) -> Any:
        if get_worker_info() is not None:
            act(index)
        return prepare(self, index)

    monkeypatch.setattr(VTAB1k, 'prepare_data', patched)


def _train_with_a_dying_worker(task: tiny.Task, folder: Path, loader: str) -> None:
    """Train; the worker that is asked for image 5 dies as by the kernel's or an admin's hand."""

    def die(index: int) -> None:
        (folder / str(os.getpid())).touch()
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        in_workers(patch, die)
        options = (*ONE_EPOCH, f'{loader}_dataloader.num_workers=2')
        tiny.train(task.linear, folder / 'work', options=options)


@pytest.mark.slow
@pytest.mark.parametrize('loader', ['train', 'val'])
def test_D3_a_killed_worker_ends_the_run_with_one_line(task, tmp_path, loader):
    log = tmp_path / 'log'
    started = time.monotonic()
    status = tiny.run_process(_train_with_a_dying_worker, task, tmp_path, loader, log=log)
    assert time.monotonic() - started < 60
    assert status == 4, log.read_text()
    line = log.read_text().splitlines()[-1]
    assert re.fullmatch(
        r'train\.py: error: DataLoader worker \(pid \d+\) is killed by signal: Killed\. If memory '
        r'ran out \(.+\), lower num_workers or batch_size of the loader; num_workers=0 shows .+',
        line,
    ), line
    workers = [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()]
    assert len(workers) == 2 and not [pid for pid in workers if Path('/proc', str(pid)).exists()]


@pytest.mark.slow
def test_D4_an_error_of_a_worker_is_shown_with_its_own_traceback(
    task, tmp_path, monkeypatch, capsys
):
    def mistaken(index: int) -> None:
        raise KeyError('a mistake of the data set')

    in_workers(monkeypatch, mistaken)
    assert fails(task.linear, tmp_path / 'work', 'train_dataloader.num_workers=2') == 1
    said = capsys.readouterr()
    assert "KeyError: 'a mistake of the data set'" in said.err.splitlines()[-1]
    assert 'in DataLoader worker process' in said.err + said.out
    assert 'in mistaken' in said.err + said.out


def fails(config: Path, work_dir: Path, *options: str) -> int:
    """Train, and expect an error; returns the exit status."""
    with pytest.raises(SystemExit) as ending:
        tiny.train(config, work_dir, options=(*ONE_EPOCH, *options))
    tiny.let_go(ending.value)
    return ending.value.code


@pytest.mark.slow
def test_D4_a_user_error_of_a_worker_is_one_line(task, tmp_path, monkeypatch, capsys):
    def complain(index: int) -> None:
        raise UserError('image 3 is upside down: turn it')

    in_workers(monkeypatch, complain)
    assert fails(task.linear, tmp_path / 'work', 'train_dataloader.num_workers=2') == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == 'train.py: error: image 3 is upside down: turn it'


def test_D5_a_split_smaller_than_a_batch(task, tmp_path, capsys):
    batch = 'train_dataloader.batch_size=30'
    assert fails(task.linear, tmp_path / 'work', batch) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        'train.py: error: train_dataloader.batch_size 30 is more than the 24 images that a process '
        'has, and drop_last=True leaves out the incomplete batch, the only one: set batch_size to '
        'at most 24, or drop_last=False'
    )
    options = (*ONE_EPOCH, batch, 'train_dataloader.drop_last=False')
    work = tiny.train(task.linear, tmp_path / 'whole', options=options)
    assert tiny.load(work / 'epoch_1.pth')['meta']['iter'] == 1


# Of the 24 images: batches of 23 and 1.
LAST_OF_ONE = ('train_dataloader.batch_size=23', 'train_dataloader.drop_last=False')


def test_D5_a_last_batch_of_one_image_trains_with_the_norms_of_maps(task, tmp_path):
    leaf = task.folder / 'pooled.py'
    leaf.write_text(
        "_base_ = 'hst_tiny.py'\n"
        "model = dict(neck=dict(_delete_=True, type='mmpretrain.GlobalAveragePooling'))\n"
    )
    work = tiny.train(leaf, tmp_path / 'work', options=(*ONE_EPOCH, *LAST_OF_ONE))
    state = tiny.load(work / 'epoch_1.pth')['state_dict']
    assert {int(v) for k, v in state.items() if k.endswith('num_batches_tracked')} == {2}
    assert all(torch.isfinite(value.float()).all() for value in state.values())


def test_D5_a_last_batch_of_one_image_is_one_line_with_the_norm_of_a_vector(task, tmp_path, capsys):
    head = ('type=StackedLinearClsHead', 'mid_channels=[8]', 'norm_cfg.type=BN1d')
    options = (*(f'model.head.{option}' for option in head), *LAST_OF_ONE)
    assert fails(task.linear, tmp_path / 'foreign', *options) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    said = 'train.py: error: a BatchNorm met a batch of one image, of which it knows no deviation: '
    assert line.startswith(f"{said}set train_dataloader's drop_last=True, or a batch_size whose")
    assert fails(task.hst, tmp_path / 'own', *LAST_OF_ONE) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith('train.py: error: neck: a training batch of 1 image has no batch stat')


def test_D5_more_workers_than_images(task, tmp_path):
    data = tiny.write_data(tmp_path / 'data', sizes=(3, 2))
    loaders = [f'{name}_dataloader' for name in ('train', 'val')]
    options = [f'{name}.dataset.data_root={data}' for name in loaders]
    options += [f'{name}.num_workers=4' for name in loaders]
    options += [f'{name}.batch_size=2' for name in loaders]
    work = tiny.train(task.linear, tmp_path / 'work', options=(*ONE_EPOCH, *options))
    assert tiny.load(work / 'epoch_1.pth')['meta']['iter'] == 1


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGING = ('mkdir', 'remove', 'rename', 'rmdir', 'link', 'symlink', 'truncate', 'utime', 'chmod')


def _train_on_read_only(task: tiny.Task, work_dir: Path, data: Path) -> None:
    """Train while Python itself, in workers as well, refuses to change the data: we may be root."""

    def refuse(event: str, arguments: tuple) -> None:
        changes = event == 'open' and (arguments[2] or 0) & WRITING
        if changes or event in {f'os.{name}' for name in CHANGING}:
            paths = [os.fsdecode(a) for a in arguments[:2] if isinstance(a, (str, bytes, Path))]
            if any(os.path.abspath(path).startswith(f'{data}/') for path in paths):
                raise PermissionError(f'{event} of {paths}')

    sys.addaudithook(refuse)
    try:
        (data / 'probe').write_text('the hook must see this')
    except PermissionError:
        workers = ('train_dataloader.num_workers=1', 'val_dataloader.num_workers=1')
        tiny.train(task.linear, work_dir, options=(*ONE_EPOCH, *workers))
        os._exit(0)
    os._exit(9)


@pytest.mark.slow
def test_D6_nothing_is_written_into_the_folder_of_the_data(task, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in task.data.rglob('*')}
    log = tmp_path / 'log'
    arguments = (task, tmp_path / 'work', task.data)
    assert tiny.run_process(_train_on_read_only, *arguments, log=log) == 0, log.read_text()
    assert (tmp_path / 'work/epoch_1.pth').is_file()
    assert {path: path.stat().st_mtime_ns for path in task.data.rglob('*')} == before


@pytest.mark.parametrize('count', [8, 9, 10])
@pytest.mark.parametrize('world_size', [1, 2, 3])
def test_D7_every_image_is_seen_once_an_epoch_but_for_what_fills_up(monkeypatch, world_size, count):
    for shuffle in (True, False):
        seen = []
        for rank in range(world_size):
            monkeypatch.setattr(samplers, 'get_dist_info', lambda rank=rank: (rank, world_size))
            sampler = DefaultSampler(range(count), shuffle=shuffle, seed=3)
            sampler.set_epoch(5)
            indices = list(sampler)
            assert len(indices) == len(sampler) == -(-count // world_size)
            seen += indices
        assert set(seen) == set(range(count))
        # The ranks must take as many steps each.
        assert len(seen) - count == -count % world_size


def _test_in_a_group(rank: int, world_size: int, port: int, arguments: list[str]) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size),
        MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port),
    )  # fmt: skip
    test_tool.main(arguments)


@pytest.mark.slow
def test_D7_metrics_are_not_inflated_by_what_fills_up(trained, tmp_path):
    """8 images on 3 processes: the first, which is wrong, is predicted twice and counted once."""
    data = tiny.write_data(tmp_path / 'data', sizes=(3, 8))
    lines = (data / 'test.txt').read_text().splitlines()
    results = {}
    for world_size in (1, 3):
        out = tmp_path / f'{world_size}.json'
        line = tiny.arguments(
            trained.task.hst, tmp_path / 'work', trained.delta,
            '--out', str(out), '--launcher', 'pytorch' if world_size > 1 else 'none',
            options=[f'test_dataloader.dataset.data_root={data}'],
        )  # fmt: skip
        if not results:  # make the first label a wrong one, and all others right
            results['labels'] = _labels(trained, data, lines)
        calls = [
            (_test_in_a_group, rank, world_size, 29_700 + os.getpid() % 200, line)
            for rank in range(world_size)
        ]
        log = tmp_path / f'{world_size}.log'
        assert set(tiny.run_processes(calls, log)) == {0}, log.read_text()
        results[world_size] = json.loads(out.read_text())['accuracy/top1']
    assert results[1] == results[3] == 100 * 7 / 8


def _labels(trained: tiny.Run, data: Path, lines: list[str]) -> list[int]:
    """Write the model's own predictions as labels, but for the first; return them."""
    from hstpeft.apis import inference, init_model

    model = init_model(trained.task.hst, trained.delta, 'cpu')
    names = [line.rpartition(' ')[0] for line in lines]
    labels = [r['pred_label'] for r in inference(model, [data / name for name in names])]
    labels[0] = (labels[0] + 1) % len(tiny.CLASSES)
    text = ''.join(f'{name} {label}\n' for name, label in zip(names, labels, strict=True))
    (data / 'test.txt').write_text(text)
    return labels
