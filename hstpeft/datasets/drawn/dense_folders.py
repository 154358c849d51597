"""Drawn scenes as folders that mmseg's BaseSegDataset and mmdet's CocoDataset read.

Shapes: H W pixels; a mask is bool (H, W), a label map uint8 (H, W).
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import mmcv
import numpy as np

from hstpeft.datasets.drawn.dense_scenes import DenseScene, Instance, draw_dense_scene
from hstpeft.datasets.drawn.elements import SHAPES

Size = tuple[int, int]
SPLITS = ('train', 'val', 'test')


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Return a mask's outlines as COCO polygons ``[x1, y1, x2, y2, ...]``.

    They pass a quarter of a pixel inside the mask's edge, so that filling them gives back the
    mask exactly. A polygon cannot have a hole: a mask with one is cut there into two.
    """
    fine = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for contour, (*_, parent) in zip(contours, hierarchy[0], strict=True):
        if parent >= 0:  # a hole: its contour are the pixels around it
            x, _, width, _ = cv2.boundingRect(contour)
            right = np.arange(mask.shape[1]) >= (x + width // 2) // 2
            return polygons(mask & ~right) + polygons(mask & right)
    return [((contour.reshape(-1) + 0.5) / 2).tolist() for contour in contours]


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """Return a mask as COCO's uncompressed RLE: runs of 0 and 1 in turn, column by column."""
    flat = mask.ravel(order='F')
    starts = np.flatnonzero(np.diff(flat, prepend=False))
    return dict(size=list(mask.shape), counts=np.diff([0, *starts, flat.size]).tolist())


class MapLayout(NamedTuple):
    """Where images and their label maps lie, and what the maps say.

    Attributes:
        images: Path of an image inside the folder, with ``{split}`` and ``{index}`` (from 1).
        maps: Path of its label map.
        values: What a map holds for the ground and for each class of the scene.
        void: If given, the rows along the bottom (a sixteenth) hold this value, as where a camera
            sees its own car.
    """

    images: str
    maps: str
    values: Sequence[int]
    void: int | None = None

    @property
    def num_classes(self) -> int:
        """Classes of a scene beside the ground."""
        return len(self.values) - 1

    def write(self, root: Path, split: str, scenes: Iterable[DenseScene]) -> None:
        """Write the images and label maps of a split."""
        values = np.array(self.values, np.uint8)
        for index, scene in enumerate(scenes, start=1):
            labels = values[scene.labels]
            if self.void is not None:
                labels[-(len(labels) // 16) :] = self.void
            place = dict(split=split, index=index)
            mmcv.imwrite(mmcv.rgb2bgr(scene.image), str(root / self.images.format(**place)))
            mmcv.imwrite(labels, str(root / self.maps.format(**place)))


class CocoLayout(NamedTuple):
    """Where images and their COCO annotations lie, and what these hold.

    Attributes:
        images: Path of an image inside the folder, with ``{split}`` and ``{index}``, its id.
        annotations: Path of a split's json file.
        categories: Id and name of each class of the scene, in order.
        segment: Writes a mask; without it there are boxes only, and areas are those of the boxes.
    """

    images: str
    annotations: str
    categories: Mapping[int, str]
    segment: Callable[[np.ndarray], Any] | None = polygons

    @property
    def num_classes(self) -> int:
        """Classes of a scene beside the ground."""
        return len(self.categories)

    def write(self, root: Path, split: str, scenes: Iterable[DenseScene]) -> None:
        """Write the images and the annotation file of a split; ids start at 1."""
        images, annotations = [], []
        for index, scene in enumerate(scenes, start=1):
            path = root / self.images.format(split=split, index=index)
            mmcv.imwrite(mmcv.rgb2bgr(scene.image), str(path))
            height, width = scene.labels.shape
            images.append(dict(id=index, file_name=path.name, width=width, height=height))
            for instance in scene.instances:
                ids = dict(id=len(annotations) + 1, image_id=index)
                annotations.append({**ids, **self._describe(instance)})
        content = dict(
            info=dict(description='scenes drawn by hstpeft'),
            images=images,
            annotations=annotations,
            categories=[dict(id=id_, name=name) for id_, name in self.categories.items()],
        )
        file = root / self.annotations.format(split=split)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content), encoding='utf-8')

    def _describe(self, instance: Instance) -> dict[str, Any]:
        width, height = instance.box[2:]
        shown = dict(
            category_id=list(self.categories)[instance.label - 1],
            bbox=list(instance.box),
            area=width * height,
            iscrowd=0,
        )
        if self.segment is None:
            return shown
        area = int(instance.mask.sum())
        return {**shown, 'area': area, 'segmentation': self.segment(instance.mask)}


def draw_scenes(
    number: int, seed: int, sizes: Sequence[Size], num_classes: int, num_objects: tuple[int, int]
) -> Iterator[DenseScene]:
    """Draw the first scenes of a stream, their sizes (H, W) in turn."""
    for index, size in zip(range(number), itertools.cycle(sizes), strict=False):
        yield draw_dense_scene(seed, index, size, num_classes, num_objects)


def write_segmentation_folder(
    root: str | Path,
    num_train: int = 8,
    num_val: int = 4,
    num_test: int = 4,
    seed: int = 0,
    size: Size = (64, 96),
    odd_size: Size | None = None,
) -> Path:
    """Write scenes for semantic segmentation, in the layout of mmseg's custom data sets.

    ``img_dir/{train,val,test}/*.png`` are images, ``ann_dir/{train,val,test}/*.png`` hold a class
    a pixel; line ``n`` of ``classes.txt`` names class ``n``, the first being the ground.

    Args:
        root: The folder; it is made if need be.
        num_train: Training images; a split of 0 images is left out.
        num_val: Validation images.
        num_test: Test images.
        seed: The splits start random streams at ``seed``, ``seed + 1`` and ``seed + 2``.
        size: H and W.
        odd_size: If given, H and W of every second image.

    Returns:
        The folder.
    """
    place = '{split}/{index:06d}.png'
    classes = ['ground', *SHAPES]
    layout = MapLayout(f'img_dir/{place}', f'ann_dir/{place}', values=range(len(classes)))
    _write_splits(Path(root), layout, (num_train, num_val, num_test), seed, size, odd_size)
    text = ''.join(f'{name}\n' for name in classes)
    Path(root, 'classes.txt').write_text(text, encoding='utf-8')
    return Path(root)


def write_coco_folder(
    root: str | Path,
    num_train: int = 8,
    num_val: int = 4,
    num_test: int = 4,
    seed: int = 0,
    size: Size = (64, 96),
    odd_size: Size | None = None,
) -> Path:
    """Write scenes for detection and instance segmentation, in the COCO format.

    ``{train,val,test}/*.png`` are images, ``annotations/{train,val,test}.json`` hold boxes and
    polygons; the categories are `SHAPES`, with ids from 1.

    Args:
        root: The folder; it is made if need be.
        num_train: Training images; a split of 0 images is left out.
        num_val: Validation images.
        num_test: Test images.
        seed: The splits start random streams at ``seed``, ``seed + 1`` and ``seed + 2``.
        size: H and W.
        odd_size: If given, H and W of every second image.

    Returns:
        The folder.
    """
    layout = CocoLayout(
        '{split}/{index:06d}.png', 'annotations/{split}.json', dict(enumerate(SHAPES, start=1))
    )
    _write_splits(Path(root), layout, (num_train, num_val, num_test), seed, size, odd_size)
    return Path(root)


def _write_splits(
    root: Path,
    layout: MapLayout | CocoLayout,
    numbers: Sequence[int],
    seed: int,
    size: Size,
    odd_size: Size | None,
) -> None:
    sizes = [size, odd_size or size]
    for offset, (split, number) in enumerate(zip(SPLITS, numbers, strict=True)):
        if number == 0:
            continue
        scenes = draw_scenes(number, seed + offset, sizes, layout.num_classes, (3, 8))
        layout.write(root, split, scenes)
