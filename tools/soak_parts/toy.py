"""The smallest real training: images, trunk weights and a config that tools/train.py runs in a second.

Two blocks and 40 images of 32 pixels; dropout, drop path and flips draw random numbers. A pass over
the images is five steps: two gradients accumulated do not divide it.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ('red', 'green', 'blue')
VIT = dict(embed_dim=32, depth=2, num_heads=2, img_size=32, patch_size=8, drop_path_rate=0.2)

CONFIG = """
_base_ = [
    '{root}/configs/_base_/tasks/cls.py',
    '{root}/configs/_base_/tuners/adaptformer.py',
    '{root}/configs/_base_/datasets/vtab-1k.py',
    '{root}/configs/_base_/schedules/{schedule}.py',
    '{root}/configs/_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True),
    backbone=dict(
        trunk=dict(
            type='hstpeft.ViTTrunk',
            arch='vit_tiny_patch16_224',
            arch_options={arch_options},
            weights='{weights}',
        ),
        tuner=dict(_base_.tuner, adapter_dims=8),
    ),
    head=dict(num_classes=3, in_channels=32),
)
load = dict(type='LoadImageFromFile', imdecode_backend='pillow')
flip = dict(type='RandomFlip', prob=0.5, direction='horizontal')
data = dict(data_root='{data}', num_classes=3)
train_dataloader = dict(
    batch_size=8,
    num_workers={workers},
    dataset=dict(pipeline=[load, flip, dict(type='PackInputs')], **data),
)
val_dataloader = dict(
    batch_size=8, num_workers=0, dataset=dict(pipeline=[load, dict(type='PackInputs')], **data)
)
test_dataloader = val_dataloader
optim_wrapper = dict(accumulative_counts={accumulate})
"""
BY_EPOCH = """
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(max_keep_ckpts={keep}))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=0.0, T_max=2, begin=1, end=3, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=3, val_interval=2)
"""
BY_ITERATION = """
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval=2, max_keep_ckpts={keep})
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=2),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, T_max=7, begin=2, end=9),
]
train_cfg = dict(max_iters=9, val_interval=4)
"""


class Variant(NamedTuple):
    """What differs between the trainings of a soak."""

    by_epoch: bool = True
    keep: int = 1
    workers: int = 0
    accumulate: int = 1

    @property
    def steps(self) -> int:
        """Of the whole training: three epochs, or some iterations of the second pass."""
        return 15 if self.by_epoch else 9

    @property
    def name(self) -> str:
        """Short, for file names and messages."""
        unit = 'epochs' if self.by_epoch else 'iterations'
        return f'{unit}-keep{self.keep}-workers{self.workers}-accumulate{self.accumulate}'


def write_toy(folder: Path) -> None:
    """Write images and trunk weights into a new folder."""
    _write_images(folder / 'data')
    torch.manual_seed(0)
    vit = timm.create_model('vit_tiny_patch16_224', num_classes=0, **VIT)
    save_file(vit.state_dict(), folder / 'trunk.safetensors')


def write_config(folder: Path, variant: Variant) -> Path:
    """Write the config of a variant of the toy in a folder; returns its path."""
    schedule = '12e_adamw' if variant.by_epoch else 'dense_300i'
    text = (CONFIG + (BY_EPOCH if variant.by_epoch else BY_ITERATION)).format(
        root=ROOT,
        schedule=schedule,
        data=folder / 'data',
        weights=folder / 'trunk.safetensors',
        arch_options=VIT,
        **variant._asdict(),
    )
    path = folder / f'{variant.name}.py'
    path.write_text(text)
    return path


def _write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split, list_name, size in (('train', 'train800val200', 40), ('test', 'test', 6)):
        (folder / 'images' / split).mkdir(parents=True)
        lines = []
        for index in range(size):
            label = index % len(CLASSES)
            image = rng.integers(0, 160, (32, 32, 3), dtype=np.uint8)
            image[:16, :16, label] += 90
            name = f'images/{split}/{index:02d}.png'
            Image.fromarray(image).save(folder / name)
            lines.append(f'{name} {label}\n')
        (folder / f'{list_name}.txt').write_text(''.join(lines))
    (folder / 'classes.txt').write_text('\n'.join(CLASSES) + '\n')
