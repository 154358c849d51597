"""Label ids outside the classes: torch would report them as a device-side assert, or not at all.

Shapes: H W pixels.
"""

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from hstpeft.errors import UserError
from hstpeft.registry import TRANSFORMS

_SHOWN = 8


@TRANSFORMS.register_module()
class CheckSegMap(BaseTransform):
    """Refuse a mask with label ids that are no class; stands right after ``LoadAnnotations``.

    Changes nothing. Without a mask (inference on a plain image) there is nothing to check.

    Args:
        num_classes: Label ids must be in 0..num_classes - 1, after ``reduce_zero_label``.
        ignore_index: The label id of pixels without a class; a mask may hold nothing else.

    Raises:
        UserError: Names the file, the label ids and the remedies.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        if num_classes < 1:
            raise UserError(f'CheckSegMap.num_classes {num_classes} must be 1 or more')
        self.num_classes, self.ignore_index = num_classes, ignore_index

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Check ``results['gt_seg_map']`` (H, W)."""
        labels = results.get('gt_seg_map')
        path = results.get('seg_map_path')
        if labels is None and path is None:
            return results
        if labels is None:
            raise UserError(
                'CheckSegMap finds no gt_seg_map: put it after LoadAnnotations in the pipeline'
            )
        if labels.ndim != 2:
            raise UserError(
                f'mask {path} has the shape {labels.shape}: a mask must have a single channel '
                'that holds label ids (or palette indices), not colours'
            )
        wrong = labels[(labels < 0) | (labels >= self.num_classes)]
        wrong = np.unique(wrong[wrong != self.ignore_index]).tolist()
        if wrong:
            raise UserError(self._complaint(path, wrong, results.get('reduce_zero_label')))
        return results

    def _complaint(self, path: str, wrong: list[int], is_reduced: bool | None) -> str:
        shown = ', '.join(map(str, wrong[:_SHOWN])) + (' ...' if len(wrong) > _SHOWN else '')
        shift = (
            'reduce_zero_label=True has made 1 the first label: set it to False if 0 is a class'
            if is_reduced
            else "if 0 is background without a class, set the data set's reduce_zero_label=True"
        )
        return (
            f'mask {path} holds the label ids {shown}, but num_classes={self.num_classes} allows 0 '
            f'to {self.num_classes - 1} and ignore_index={self.ignore_index}: set num_classes (of '
            f'the heads too) above the highest id; {shift}; set ignore_index if these pixels have '
            'no class'
        )
