"""A classification data set that draws its own images, for runs without any download.

Shapes: H W pixels.
"""

from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmpretrain.datasets import BaseDataset
from numpy.random import Generator

from hstpeft.datasets.drawn.cls_scenes import TASKS, check_task
from hstpeft.datasets.drawn.elements import photograph
from hstpeft.errors import UserError
from hstpeft.registry import DATASETS

MIN_IMG_SIZE = 16


def render_image(task: str, label: int, rng: Generator, size: int = 64) -> np.ndarray:
    """Draw one image, RGB uint8 (H, W, 3).

    Args:
        task: A key of `TASKS`.
        label: Which of the task's classes is shown.
        rng: Decides everything else; no other random state is read or changed.
        size: H and W.

    Raises:
        UserError: The task is unknown, the label is not one of its classes, or the size too small.
    """
    check_task(task)
    num_classes = len(TASKS[task].classes)
    if not 0 <= label < num_classes:
        raise UserError(f'label {label} of task {task!r} is outside 0..{num_classes - 1}: fix it')
    if size < MIN_IMG_SIZE:
        raise UserError(f'size {size} is too small to show a scene: use {MIN_IMG_SIZE} or more')
    paint, _ = TASKS[task].draw(label, rng, size)
    return photograph(paint, rng)


def render_sample(task: str, seed: int, index: int, size: int = 64) -> tuple[np.ndarray, int]:
    """Draw sample ``index`` of the stream that ``seed`` starts; its label is ``index`` modulo.

    Returns:
        An image, RGB uint8 (H, W, 3), and its label.
    """
    check_task(task)
    label = index % len(TASKS[task].classes)
    return render_image(task, label, np.random.default_rng((seed, index)), size), label


@DATASETS.register_module()
class RenderedShapes(BaseDataset):
    """Scenes of the project's own renderer, drawn when they are read.

    A sample depends on task, seed, index and size only, never on global random state. Sample
    ``index`` shows class ``index % classes``, so the classes are balanced. Images arrive decoded
    (``img``, uint8 BGR as OpenCV would read them), hence a pipeline needs no loading transform.

    Args:
        task: What the scenes show; `TASKS` describes each.
        num_samples: How many.
        seed: Give training and testing different ones: no image is then shared.
        img_size: H and W.
        pipeline: Transforms; for training, ``[dict(type='PackInputs')]`` is enough.
        test_mode: Whether this is for testing.

    Raises:
        UserError: The task is unknown, or a number is too small.
    """

    checks_images = True
    """The paths of its images are made up: nobody shall look for them."""

    def __init__(
        self,
        task: str,
        num_samples: int,
        seed: int,
        img_size: int = 64,
        pipeline: list[dict] | tuple = (),
        test_mode: bool = False,
    ) -> None:
        check_task(task)
        for name, value, least in (
            ('num_samples', num_samples, 1),
            ('seed', seed, 0),
            ('img_size', img_size, MIN_IMG_SIZE),
        ):
            if value < least:
                raise UserError(f'{name} {value} is too small: use {least} or more')
        self.task, self.num_samples, self.seed, self.img_size = task, num_samples, seed, img_size
        super().__init__(
            ann_file='',
            metainfo=dict(classes=TASKS[task].classes),
            pipeline=pipeline,
            test_mode=test_mode,
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        """List index, label and a made-up path of every sample; a subset keeps its images."""
        num_classes = len(TASKS[self.task].classes)
        return [
            dict(
                img_path=f'rendered/{self.task}/{self.seed}/{index}',
                render_index=index,
                gt_label=index % num_classes,
            )
            for index in range(self.num_samples)
        ]

    def prepare_data(self, idx: int) -> Any:
        """Draw a sample and run the pipeline on it."""
        info = self.get_data_info(idx)
        image, _ = render_sample(self.task, self.seed, info['render_index'], self.img_size)
        info['img'] = mmcv.rgb2bgr(image)
        info['img_shape'] = info['ori_shape'] = image.shape[:2]
        return self.pipeline(info)

    def extra_repr(self) -> list[str]:
        """Describe what decides the images."""
        return [f'Task: \t{self.task}', f'Seed: \t{self.seed}', f'Image size: \t{self.img_size}']


def write_vtab_folder(
    root: str | Path,
    task: str,
    train: int = 800,
    val: int = 200,
    test: int = 1000,
    seed: int = 0,
    img_size: int = 64,
) -> Path:
    """Write a task as a folder in the layout of the repacked VTAB-1k, for `VTAB1k`.

    The lists are ``train<train>.txt``, ``val<val>.txt``, ``train<train>val<val>.txt`` and
    ``test.txt``; a line is ``images/<split>/<number>.png <label>``.

    Args:
        root: The folder is ``<root>/<task>``; it is made if need be.
        task: What the scenes show.
        train: Training images.
        val: Validation images.
        test: Test images.
        seed: The splits start random streams at ``seed``, ``seed + 1`` and ``seed + 2``.
        img_size: H and W.

    Returns:
        The task's folder.
    """
    check_task(task)
    folder = Path(root, task)
    lines = {
        split: _write_split(folder, split, task, number, seed + offset, img_size)
        for offset, (split, number) in enumerate(dict(train=train, val=val, test=test).items())
    }
    lists = {
        f'train{train}': lines['train'],
        f'val{val}': lines['val'],
        f'train{train}val{val}': lines['train'] + lines['val'],
        'test': lines['test'],
        'classes': list(TASKS[task].classes),
    }
    for name, content in lists.items():
        text = ''.join(f'{line}\n' for line in content)
        (folder / f'{name}.txt').write_text(text, encoding='utf-8')
    return folder


def _write_split(
    folder: Path, split: str, task: str, number: int, seed: int, img_size: int
) -> list[str]:
    """Write the images of a split; return the lines of its list."""
    lines = []
    for index in range(number):
        image, label = render_sample(task, seed, index, img_size)
        name = f'images/{split}/{index:06d}.png'
        mmcv.imwrite(mmcv.rgb2bgr(image), str(folder / name))
        lines.append(f'{name} {label}')
    return lines
