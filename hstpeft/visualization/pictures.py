"""Pictures of samples with their annotations and predictions, as files, for the three hosts.

Shapes: C channels (1 or 3), H W pixels.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from torch import Tensor

from hstpeft.errors import UserError

HOST_VISUALIZERS = {
    'mmpretrain': 'mmpretrain.UniversalVisualizer',
    'mmseg': 'mmseg.SegLocalVisualizer',
    'mmdet': 'mmdet.DetLocalVisualizer',
}
"""What draws the samples of a host, by the config's ``default_scope``."""
# Suffixes that a picture may keep; every other image becomes a PNG.
_SUFFIXES = {'.jpg', '.jpeg', '.png'}
# These send pictures somewhere else, or name a global instance.
_NOT_FOR_FILES = ('vis_backends', 'save_dir', 'name')


def build_visualizer(cfg: Config, dataset_meta: Mapping[str, Any]) -> Visualizer:
    """Build a visualizer as the config describes it, but without backends, for files alone.

    A config without visualizer, or with one that draws nothing for its host, gets the host's own.

    Args:
        cfg: Config of a model; ``default_scope`` says for which host.
        dataset_meta: Meta information of the data set: class names and, if any, colours.

    Raises:
        UserError: No host has that ``default_scope``.
    """
    scope = cfg.get('default_scope', 'mmpretrain')
    if scope not in HOST_VISUALIZERS:
        raise UserError(
            f'default_scope {scope!r} has no pictures: it must be one of {list(HOST_VISUALIZERS)}'
        )
    host = VISUALIZERS.get(HOST_VISUALIZERS[scope])
    options = dict(cfg.get('visualizer') or {})
    kind = VISUALIZERS.get(options.pop('type', HOST_VISUALIZERS[scope]))
    if kind is None or not _draws(kind, host):
        kind, options = host, {}
    # Not through the registry: that would make it the current visualizer of the whole process.
    own = {name: value for name, value in options.items() if name not in _NOT_FOR_FILES}
    visualizer = kind(name='pictures', **own)
    visualizer.dataset_meta = dict(dataset_meta)
    return visualizer


def _draws(kind: type[Visualizer], host: type[Visualizer]) -> bool:
    """Whether a class of visualizers knows what to do with the samples of a host."""
    return issubclass(kind, host) or kind.add_datasample is not Visualizer.add_datasample


class PictureFolder:
    """A folder of pictures, one per sample, named like the images.

    Args:
        folder: Made if need be.
        option: The command-line option that named it, for error messages.

    Raises:
        UserError: The folder cannot be made or written.
    """

    def __init__(self, folder: str | Path, option: str) -> None:
        self.folder, self.option = Path(folder), option
        self.names: set[str] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'{option} {folder} cannot be made: {error}') from error
        if not os.access(self.folder, os.W_OK):
            raise UserError(f'{option} {folder} is not writable')

    def add(
        self,
        visualizer: Visualizer,
        picture: np.ndarray,
        sample: BaseDataElement,
        draw_pred: bool,
        stage: str = '',
    ) -> Path:
        """Draw one sample.

        Args:
            visualizer: From `build_visualizer`.
            picture: What is drawn on, RGB uint8 (H, W, 3).
            sample: A sample of the host; its boxes and masks fit the picture.
            draw_pred: Whether to draw the predictions in it beside the annotations.
            stage: Is added to the name of the file.

        Returns:
            The file.

        Raises:
            UserError: The file cannot be written.
        """
        path = self.folder / self._name(sample.get('img_path'), stage)
        # A classifier's visualizer has a method of its own for this, with the same arguments.
        draw = getattr(visualizer, 'visualize_cls', visualizer.add_datasample)
        try:
            draw(
                name=path.stem,
                image=picture,
                data_sample=_with_plain_boxes(sample),
                draw_pred=draw_pred,
                out_file=str(path),
            )
        except OSError as error:
            raise UserError(f'{self.option}: {path} cannot be written: {error}') from error
        return path

    def _name(self, image: str | None, stage: str) -> str:
        """Name a picture like its image; images of one name in several folders get a number."""
        number = len(self.names)
        stem, suffix = os.path.splitext(Path(image).name) if image else (f'{number:06d}', '')
        stem += f'_{stage}' if stage else ''
        suffix = suffix if suffix.lower() in _SUFFIXES else '.png'
        name, count = stem + suffix, 1
        while name in self.names:
            count += 1
            name = f'{stem}_{count}{suffix}'
        self.names.add(name)
        return name


def _with_plain_boxes(sample: BaseDataElement) -> BaseDataElement:
    """Copy a sample, on the CPU, its boxes as tensors: mmdet's pipelines give box objects."""
    sample = sample.cpu()
    instances = sample.get('gt_instances')
    if instances is not None and 'bboxes' in instances:
        instances.bboxes = getattr(instances.bboxes, 'tensor', instances.bboxes)
    return sample


def read_picture(sample: BaseDataElement, inputs: Tensor) -> np.ndarray:
    """Find the image that predictions belong to, before any transform.

    Args:
        sample: Names the image's file, if there is one, and its shape.
        inputs: What the pipeline made of it (C, H, W), BGR; is resized if there is no file.

    Returns:
        RGB uint8 (H, W, 3).
    """
    path = sample.get('img_path')
    if path and Path(path).is_file():
        return mmcv.imread(path, channel_order='rgb')
    picture = to_picture(inputs)
    height, width = sample.get('ori_shape', picture.shape)[:2]
    return mmcv.imresize(picture, (width, height))


def to_picture(inputs: Tensor) -> np.ndarray:
    """Turn what a pipeline packed (C, H, W), BGR or grey, into RGB uint8 (H, W, 3)."""
    image = inputs.cpu().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(np.broadcast_to(image[..., ::-1], (*image.shape[:2], 3)))
