"""A tiny task and trunk on disk, and the tools run on them as a user would run them.

Everything goes through the shipped base configs and the hosts' own Runner; nothing is mocked.
"""

import functools
import itertools
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from tests.support.models import vit_weights
from tests.support.paths import ROOT

CLASSES = ('red', 'green', 'blue')
BATCH, EPOCHS, STEPS = 8, 3, 3

LEAF = """
_base_ = [
    '{root}/configs/_base_/tasks/cls.py',
    '{root}/configs/_base_/tuners/{tuner}.py',
    '{root}/configs/_base_/datasets/vtab-1k.py',
    '{root}/configs/_base_/schedules/12e_adamw.py',
    '{root}/configs/_base_/default_runtime.py',
]
arch_options = dict(embed_dim=32, depth=4, num_heads=2, img_size=32, patch_size=8)
model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True),
    backbone=dict(
        trunk=dict(
            type='hstpeft.ViTTrunk',
            arch='vit_tiny_patch16_224',
            arch_options=arch_options,
            weights='{weights}',
        ),
        tuner={tuner_options},
    ),
    head=dict(num_classes=3, in_channels={width}),
)
load = dict(type='LoadImageFromFile', imdecode_backend='pillow')
flip = dict(type='RandomFlip', prob=0.5, direction='horizontal')
data = dict(data_root='{data}', num_classes=3)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(pipeline=[load, flip, dict(type='PackInputs')], **data),
)
val_dataloader = dict(
    batch_size=8, num_workers=0, dataset=dict(pipeline=[load, dict(type='PackInputs')], **data)
)
test_dataloader = val_dataloader
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(max_keep_ckpts=-1))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=0.0, T_max=2, begin=1, end=3, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=3, val_interval=3)
"""
HST = 'dict(_base_.tuner, side_dims=[8, 8, 16, 16], side_heads=[2, 2, 4, 4])'
NECK = "model['neck'] = dict(type='hstpeft.PooledNorm', in_channels=16)\n"

# Random in every place that a resume must restore: the flip above, trunk and side network.
DROP_PATH = (
    'model.backbone.trunk.arch_options.drop_path_rate=0.3',
    'model.backbone.tuner.side_drop_path_rate=0.3',
)


class Task(NamedTuple):
    """Paths of a tiny task: images, trunk weights, and leaf configs of two tuners."""

    folder: Path
    data: Path
    weights: Path
    hst: Path
    linear: Path


class Run(NamedTuple):
    """A finished training: its task and its work folder."""

    task: Task
    work_dir: Path

    @property
    def delta(self) -> Path:
        """What the training wrote at its end."""
        return self.work_dir / 'delta.pth'


def make_task(folder: Path, seed: int = 0) -> Task:
    """Write images, weights and leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    data, weights = write_data(folder / 'data'), folder / 'vit.safetensors'
    save_file(vit_weights(seed=seed), weights)
    leaves = {}
    for tuner, options, width in (('hst', HST, 16), ('frozen', '_base_.tuner', 32)):
        text = LEAF.format(
            root=ROOT, tuner=tuner, weights=weights, data=data, tuner_options=options, width=width
        )
        leaves[tuner] = folder / f'{tuner}_tiny.py'
        leaves[tuner].write_text(text + (NECK if tuner == 'hst' else ''))
    return Task(folder, data, weights, leaves['hst'], leaves['frozen'])


def write_data(folder: Path, sizes: Sequence[int] = (24, 9), pixels: int = 32) -> Path:
    """Write a VTAB folder of noisy images whose colour is their class."""
    rng = np.random.default_rng(0)
    for split, list_name, size in zip(
        ('train', 'test'), ('train800val200', 'test'), sizes, strict=True
    ):
        (folder / 'images' / split).mkdir(parents=True)
        lines = []
        for index in range(size):
            label = index % len(CLASSES)
            image = rng.integers(0, 160, (pixels, pixels, 3), dtype=np.uint8)
            image[: pixels // 2, : pixels // 2, label] += 90
            name = f'images/{split}/{index:06d}.png'
            Image.fromarray(image).save(folder / name)
            lines.append(f'{name} {label}\n')
        (folder / f'{list_name}.txt').write_text(''.join(lines))
    (folder / 'classes.txt').write_text('\n'.join(CLASSES) + '\n')
    return folder


_numbers = itertools.count()


def arguments(
    config: Path, work_dir: Path | None, *flags: str, options: Sequence[str] = ()
) -> list[str]:
    """Make a command line; mmengine's global instances are told apart by the experiment."""
    name = f'experiment_name=tiny-{os.getpid()}-{next(_numbers)}'
    work = [] if work_dir is None else ['--work-dir', str(work_dir)]
    return [str(config), *map(str, flags), *work, '--cfg-options', name, *options]


def train(config: Path, work_dir: Path, *flags: str, options: Sequence[str] = ()) -> Path:
    """Run tools/train.py in this process; returns the folder that it worked in."""
    from tools.train import main

    main(arguments(config, work_dir, *flags, options=options))
    return work_dir / 'dry_run' if '--dry-run' in flags else work_dir


@functools.cache
def trained(base: Path) -> Run:
    """Train the tiny HST once per session."""
    task = make_task(base / 'trained')
    return Run(task, train(task.hst, task.folder / 'work'))


def let_go(error: BaseException | None) -> None:
    """Clear the frames of an error and of those behind it, so that a loader's workers end now.

    Otherwise the garbage collector finds the loader with its queues, and then each worker is waited
    for five seconds, in whichever test comes next.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint of our own runs, whatever is in it, but for its hash: tests change it."""
    checkpoint = torch.load(path, map_location='cpu', weights_only=False)
    if isinstance(checkpoint, dict):
        checkpoint.pop('sha256', None)
    return checkpoint


def same(a: Any, b: Any) -> bool:
    """Whether two nested values are bit-equal."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def spread(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Return the largest difference of two state dicts with the same keys."""
    assert a.keys() == b.keys()
    return max(float((a[key].double() - b[key].double()).abs().max()) for key in a)


def run_process(target: Callable, *args: Any, log: Path) -> int:
    """Run a function in a process of its own, forked from a clean server that has torch loaded.

    Returns:
        The exit code, negative for a signal; stdout and stderr are in ``log``.
    """
    return run_processes([(target, *args)], log)[0]


def run_processes(calls: Sequence[tuple], log: Path) -> list[int]:
    """Run several functions at once, each in a process of its own; see `run_process`."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['tests.support.tiny', 'tools.train'])
    processes = [context.Process(target=_child, args=(log, *call)) for call in calls]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
        assert process.exitcode is not None, f'a process hangs: {log.read_text()}'
    return [process.exitcode for process in processes]


def _child(log: Path, target: Callable, *args: Any) -> None:
    with open(log, 'a') as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    torch.set_num_threads(1)
    target(*args)
