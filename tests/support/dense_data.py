"""Tiny dense data sets on disk, and the configs that read them: hosts' classes, a toy model."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import METRICS, MODELS
from PIL import Image
from torch import nn

SIDE = 32
NAMES = ('cat', 'dog', 'bird')
_numbers = itertools.count()


@MODELS.register_module(force=True)
class AnyModel(BaseModel):
    """Takes whatever a data set gives."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, mode: str = 'tensor', **data: Any) -> Any:
        """Return a loss, or no predictions."""
        return {'loss': self.weight * 2} if mode == 'loss' else [{}]


@METRICS.register_module(force=True)
class Nothing:
    """A metric that compares nothing; with ``format_only`` it says so."""

    collect_device, collect_dir, prefix, dataset_meta = 'cpu', None, None, None

    def __init__(self, format_only: bool = False) -> None:
        self.format_only = format_only

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Ignore a batch."""

    def evaluate(self, size: int) -> dict[str, float]:
        """Return the number of images."""
        return {'images': size}


def write_image(path: Path, channels: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (SIDE, SIDE, channels) if channels > 1 else (SIDE, SIDE)
    Image.fromarray(np.zeros(shape, dtype=np.uint8)).save(path)


def write_segmentation(root: Path, count: int = 3) -> Path:
    """Write img_dir and ann_dir with train and val; labels 0, 1, 2 and 255."""
    labels = np.repeat(np.array([0, 1, 2, 255], dtype=np.uint8), SIDE // 4)
    mask = np.broadcast_to(labels, (SIDE, SIDE))
    for split in ('train', 'val'):
        for index in range(count):
            write_image(root / 'img_dir' / split / f'{index}.jpg')
            path = root / 'ann_dir' / split / f'{index}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
    return root


def coco(count: int = 3, names: tuple[str, ...] = NAMES) -> dict[str, list[dict]]:
    """Make a COCO file: one box an image, its class in turn."""
    box = {'bbox': [2, 2, 9, 9], 'area': 81, 'iscrowd': 0}
    return {
        'images': [
            {'id': i, 'file_name': f'{i}.jpg', 'height': SIDE, 'width': SIDE} for i in range(count)
        ],
        'annotations': [
            {'id': i, 'image_id': i, 'category_id': 1 + i % len(names), **box} for i in range(count)
        ],
        'categories': [{'id': 1 + i, 'name': name} for i, name in enumerate(names)],
    }


def write_boxes(root: Path, content: dict | str | None = None, count: int = 3) -> Path:
    """Write train.json, with val.json always sound, and the images."""
    for index in range(count):
        write_image(root / 'images' / f'{index}.jpg')
    content = coco(count) if content is None else content
    text = content if isinstance(content, str) else json.dumps(content)
    (root / 'train.json').write_text(text)
    (root / 'val.json').write_text(json.dumps(coco(count)))
    return root


def seg_dataset(root: Path, split: str = 'train', **options: Any) -> dict:
    return dict(
        type='mmseg.BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path=f'img_dir/{split}', seg_map_path=f'ann_dir/{split}'),
        metainfo=dict(classes=NAMES),
        pipeline=options.pop('pipeline', []),
        test_mode=split != 'train',
        **options,
    )


def box_dataset(root: Path, split: str = 'train', **options: Any) -> dict:
    return dict(
        type='mmdet.CocoDataset',
        data_root=str(root),
        ann_file=f'{split}.json',
        data_prefix=dict(img='images'),
        metainfo=options.pop('metainfo', dict(classes=NAMES)),
        pipeline=options.pop('pipeline', []),
        test_mode=split != 'train',
        **options,
    )


def config(
    work_dir: Path, train: dict, val: dict | None = None, workers: int = 0, **options: Any
) -> Config:
    """Make the config of one step on any data, with an infinite sampler, and of a validation."""
    loader = dict(batch_size=1, num_workers=workers, collate_fn=dict(type='pseudo_collate'))
    cfg = dict(
        default_scope='mmengine',
        experiment_name=f'dense-{os.getpid()}-{next(_numbers)}',
        work_dir=str(work_dir),
        launcher='none',
        log_level='INFO',
        model=dict(type='AnyModel'),
        train_dataloader=dict(loader, dataset=train, sampler=dict(type='InfiniteSampler')),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=1, val_interval=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[dict(type='hstpeft.DataCheckHook')],
    )
    if val is not None:
        for name in ('val', 'test'):
            cfg[f'{name}_dataloader'] = dict(
                loader, dataset=val, sampler=dict(type='DefaultSampler', shuffle=False)
            )
            cfg[f'{name}_cfg'] = dict(type=f'{name.title()}Loop')
            cfg[f'{name}_evaluator'] = dict(type='Nothing')
    return Config({**cfg, **options})
