"""A classification data set that draws its own images, for runs without any download.

Shapes: H W pixels. An image depends on (task, seed, index, size) and on nothing else.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmpretrain.datasets import BaseDataset

from hstpeft.datasets.scenes import CLASSES, render_image, render_scene
from hstpeft.errors import UserError, nearest
from hstpeft.registry import DATASETS

__all__ = ['RenderedShapes', 'render_image', 'render_scene', 'write_vtab_folder']


@DATASETS.register_module()
class RenderedShapes(BaseDataset):
    """Scenes of the project's own renderer, drawn when they are read.

    Sample ``index`` shows class ``index % number of classes``, so classes are balanced; data sets
    with different seeds share no image. Images come decoded (``img``, BGR as from cv2), so that
    the pipeline needs no loading transform: ``[dict(type='PackInputs')]`` is enough.

    Args:
        task: What is drawn: ``objects`` (80 classes), ``dials`` (12), ...
        num_samples: Length of the data set.
        seed: Starts the random stream of every image; give training and test sets different ones.
        img_size: Height and width in pixels.
        pipeline: Transforms.
        test_mode: Whether this is for testing.

    Raises:
        UserError: An argument is wrong; names it, its value and the remedy.
    """

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
        for name, value, least in (('num_samples', num_samples, 1), ('img_size', img_size, 16)):
            if value < least:
                raise UserError(f'{name} {value!r} is too small: give at least {least}')
        if seed < 0:
            raise UserError(f'seed {seed!r} is negative: give a whole number from 0 up')
        self.task = task
        self.num_samples = num_samples
        self.seed = seed
        self.img_size = img_size
        super().__init__(
            ann_file='',
            metainfo=dict(classes=CLASSES[task]),
            pipeline=pipeline,
            test_mode=test_mode,
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        """List a made-up path and the label of every sample."""
        num_classes = len(CLASSES[self.task])
        folder = f'rendered/{self.task}/{self.seed}'
        return [
            dict(img_path=f'{folder}/{index}', gt_label=index % num_classes)
            for index in range(self.num_samples)
        ]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return the entry of a sample; its image is drawn in `prepare_data`."""
        return super().get_data_info(idx)

    def prepare_data(self, idx: int) -> Any:
        """Draw a sample and run the pipeline on it."""
        info = self.get_data_info(idx)
        rng = np.random.default_rng([self.seed, info['sample_idx']])
        image = render_image(self.task, info['gt_label'], rng, self.img_size)
        info['img'] = np.ascontiguousarray(image[..., ::-1])
        info['img_shape'] = info['ori_shape'] = image.shape[:2]
        return self.pipeline(info)

    def extra_repr(self) -> list[str]:
        """Describe the arguments that decide what is drawn."""
        return [f'Task: \t{self.task}', f'Seed: \t{self.seed}', f'Image size: \t{self.img_size}']
