"""Classify files, arrays and folders."""

from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import Compose
from mmengine.dataset.utils import default_collate
from mmengine.model import BaseModel
from mmengine.registry import TRANSFORMS, init_default_scope
from rich.progress import track

from hstpeft.datasets.loading import LoadImageFromFile, name_files
from hstpeft.engine.safe_io import safe_io
from hstpeft.errors import UserError

IMAGE_TYPES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm')


def inference(
    model: BaseModel,
    inputs: str | Path | np.ndarray | list,
    batch_size: int = 16,
    show_progress: bool = True,
) -> list[dict[str, Any]]:
    """Classify images.

    Args:
        model: From `init_model` or `get_model`.
        inputs: An image file, a folder of images, an array (H, W, 3) in BGR order as OpenCV
            gives it, or a list of files and arrays.
        batch_size: Images at a time.
        show_progress: Whether to show a progress bar for more than one batch.

    Returns:
        For each image ``source``, ``pred_label``, ``pred_score`` (0..1), ``pred_scores`` and,
        where the delta knows the names, ``pred_class``.

    Raises:
        UserError: A file is missing, cannot be decoded, is too large or has values of no defined
            range, an array is not uint8, or a folder holds no image.
    """
    sources = _sources(inputs)
    load, pipeline = _pipelines(model)
    classes = (model.dataset_meta or {}).get('classes')
    results = []
    starts = range(0, len(sources), batch_size)
    silent = not show_progress or len(starts) < 2
    for start in track(starts, 'inference', disable=silent):
        chunk = sources[start : start + batch_size]
        batch = default_collate([pipeline(_load(source, load)) for source in chunk])
        for source, sample in zip(chunk, model.test_step(batch), strict=True):
            scores = sample.pred_score.tolist()
            label = int(np.argmax(scores))
            result = {
                'source': 'array' if isinstance(source, np.ndarray) else str(source),
                'pred_label': label,
                'pred_score': scores[label],
                'pred_scores': scores,
            }
            results.append({**result, 'pred_class': classes[label]} if classes else result)
    return results


def _sources(inputs: Any) -> list[Path | np.ndarray]:
    if isinstance(inputs, np.ndarray):
        return [inputs]
    if isinstance(inputs, (list, tuple)):
        return [source for item in inputs for source in _sources(item)]
    path = Path(inputs)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_TYPES)
        if not found:
            raise UserError(f'folder {path} holds no images ({", ".join(IMAGE_TYPES)})')
        return found
    return [path]


def _pipelines(model: BaseModel) -> tuple[Compose, Compose]:
    """Split the config's test pipeline into loading and the rest."""
    # Another model may have been built since.
    init_default_scope(model.cfg.get('default_scope', 'mmpretrain'))
    with safe_io():
        pipeline = model.cfg.test_dataloader.dataset.pipeline
        whole = Compose([TRANSFORMS.build(cfg) for cfg in pipeline])
    name_files(whole)
    transforms = whole.transforms
    kinds = [type(transform).__name__ for transform in transforms]
    first = kinds.index('LoadImageFromFile') + 1 if 'LoadImageFromFile' in kinds else 0
    loading = transforms[:first] or [LoadImageFromFile()]
    return Compose(loading), Compose(transforms[first:])


def _load(source: Path | np.ndarray, load: Compose) -> dict[str, Any]:
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3:
            raise UserError(f'an image array must be (H, W, 3), got {source.shape}')
        if source.dtype != np.uint8:
            raise UserError(
                f'an image array must be uint8, got {source.dtype}: nobody knows what is white in it'
            )
        return {'img': source, 'img_shape': source.shape[:2], 'ori_shape': source.shape[:2]}
    return load({'img_path': str(source)})
