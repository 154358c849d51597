"""Stand-ins of public data sets: drawn scenes in their folders, under their names and values.

They let every config start without a download. No result on them says anything about the data
set of the same name.

Shapes: H W pixels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hstpeft.datasets.drawn.dense_folders import (
    CocoLayout,
    MapLayout,
    Size,
    draw_scenes,
    polygons,
    run_lengths,
)
from hstpeft.errors import UserError, nearest

# fmt: off
_COCO_NAMES = (
    'person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train', 'truck', 'boat',
    'traffic light', 'fire hydrant', 'stop sign', 'parking meter', 'bench', 'bird', 'cat', 'dog',
    'horse', 'sheep', 'cow', 'elephant', 'bear', 'zebra', 'giraffe', 'backpack', 'umbrella',
    'handbag', 'tie', 'suitcase', 'frisbee', 'skis', 'snowboard', 'sports ball', 'kite',
    'baseball bat', 'baseball glove', 'skateboard', 'surfboard', 'tennis racket', 'bottle',
    'wine glass', 'cup', 'fork', 'knife', 'spoon', 'bowl', 'banana', 'apple', 'sandwich', 'orange',
    'broccoli', 'carrot', 'hot dog', 'pizza', 'donut', 'cake', 'chair', 'couch', 'potted plant',
    'bed', 'dining table', 'toilet', 'tv', 'laptop', 'mouse', 'remote', 'keyboard', 'cell phone',
    'microwave', 'oven', 'toaster', 'sink', 'refrigerator', 'book', 'clock', 'vase', 'scissors',
    'teddy bear', 'hair drier', 'toothbrush',
)
# fmt: on
# COCO numbers 91 kinds of things, but its boxes leave these out.
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_COCO_IDS = [id_ for id_ in range(1, 91) if id_ not in _COCO_GAPS]


class StandIn(NamedTuple):
    """What to draw for a data set.

    Attributes:
        layout: How it is written.
        splits: Their names, training first.
        sizes: H and W of its images, in turn.
        num_objects: The least and the most objects of an image.
    """

    layout: MapLayout | CocoLayout
    splits: tuple[str, ...]
    sizes: tuple[Size, ...]
    num_objects: tuple[int, int] = (3, 8)


def _cityscapes(folder: str, kind: str) -> str:
    """Name a file as Cityscapes does: by city, sequence and frame."""
    return folder + '/{split}/drawn/drawn_{index:06d}_000019_' + kind + '.png'


STAND_INS: Mapping[str, StandIn] = {
    # The ground is its first class, since 0 means "none of the 150".
    'ade20k': StandIn(
        MapLayout(
            'images/{split}/ADE_{split}_{index:08d}.jpg',
            'annotations/{split}/ADE_{split}_{index:08d}.png',
            values=range(1, 151),
            void=0,
        ),
        ('training', 'validation'),
        ((512, 683), (683, 512)),
        (6, 14),
    ),
    'cityscapes': StandIn(
        MapLayout(
            _cityscapes('leftImg8bit', 'leftImg8bit'),
            _cityscapes('gtFine', 'gtFine_labelTrainIds'),
            values=range(19),
            void=255,
        ),
        ('train', 'val'),
        ((1024, 2048),),
        (8, 16),
    ),
    'camvid': StandIn(
        MapLayout(
            'img_dir/{split}/drawn_{index:06d}.jpg',
            'ann_dir/{split}/drawn_{index:06d}.png',
            values=range(11),
            void=11,
        ),
        ('train', 'val', 'test'),
        ((360, 480),),
    ),
    'coco': StandIn(
        CocoLayout(
            '{split}2017/{index:012d}.jpg',
            'annotations/instances_{split}2017.json',
            dict(zip(_COCO_IDS, _COCO_NAMES, strict=True)),
            polygons,
        ),
        ('train', 'val'),
        ((480, 640), (640, 427)),
    ),
    'bccd': StandIn(
        CocoLayout(
            '{split}/drawn_{index:05d}.jpg',
            'annotations/{split}.json',
            {1: 'RBC', 2: 'WBC', 3: 'Platelets'},
            segment=None,
        ),
        ('train', 'val', 'test'),
        ((480, 640),),
        (8, 18),
    ),
    'dsb2018': StandIn(
        CocoLayout(
            '{split}/drawn_{index:05d}.png', 'annotations/{split}.json', {1: 'nucleus'}, run_lengths
        ),
        ('train', 'val'),
        ((256, 256), (360, 360), (256, 320)),
        (12, 30),
    ),
}


def write_stand_in(
    layout: str,
    root: str | Path,
    num_train: int = 4,
    num_val: int = 2,
    size: Size | None = None,
    seed: int = 0,
) -> Path:
    """Write drawn scenes in the folders and formats of a public data set.

    Args:
        layout: Which one; a key of `STAND_INS`.
        root: The folder that the configs of this data set call ``data_root``; new or empty.
        num_train: Training images.
        num_val: Validation images, and test images where there is such a split.
        size: H and W of every image, instead of the data set's typical ones.
        seed: The splits start random streams at ``seed``, ``seed + 1`` and ``seed + 2``.

    Returns:
        The folder.

    Raises:
        UserError: The layout is unknown, a number too small, or the folder holds files.
    """
    if layout not in STAND_INS:
        raise UserError(f'layout {layout!r} has no stand-in: {nearest(layout, STAND_INS)}')
    for name, value in dict(num_train=num_train, num_val=num_val).items():
        if value < 1:
            raise UserError(f'{name} {value} is too small: use 1 or more')
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f'root {root} is in use: name a new folder, so that no real data is mixed')
    stand_in = STAND_INS[layout]
    num_classes, sizes = stand_in.layout.num_classes, (size,) if size else stand_in.sizes
    for offset, split in enumerate(stand_in.splits):
        number = num_val if offset else num_train
        scenes = draw_scenes(number, seed + offset, sizes, num_classes, stand_in.num_objects)
        stand_in.layout.write(root, split, scenes)
    return root
