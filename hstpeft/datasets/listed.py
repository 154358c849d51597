"""What the list-based classification data sets have in common: checks, and bad images."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

import cv2
import mmcv
from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset

from hstpeft.errors import UserError

BAD_IMAGE_POLICIES = ('error', 'skip')
# What cv2, PIL and mmcv raise for a missing, truncated or foreign file.
_IMAGE_ERRORS = (OSError, AssertionError, ValueError, SyntaxError, AttributeError, cv2.error)


class ListedImages(BaseDataset):
    """Images and labels from a list file; a mistake in it is named by file and line.

    Args:
        data_root: Folder that the list file and the image paths are relative to.
        ann_file: List file.
        num_classes: Labels must be in 0..num_classes - 1.
        pipeline: Transforms, starting with ``LoadImageFromFile``.
        test_mode: Whether this is for testing.
        on_bad_image: ``error`` names the file when it is met; ``skip`` reads every image once at
            the start, leaves the unreadable ones out and says how many.
        metainfo: ``classes`` and the like.

    Raises:
        UserError: A folder or file is missing, a line is broken, or a label out of range.
    """

    checks_images = True
    """Missing and damaged images are `on_bad_image`'s matter."""

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        num_classes: int,
        pipeline: list[dict],
        test_mode: bool = False,
        on_bad_image: str = 'error',
        metainfo: dict | None = None,
    ) -> None:
        if on_bad_image not in BAD_IMAGE_POLICIES:
            raise UserError(f'on_bad_image {on_bad_image!r} must be one of {BAD_IMAGE_POLICIES}')
        self.num_classes = num_classes
        self.on_bad_image = on_bad_image
        super().__init__(
            ann_file=ann_file,
            data_root=data_root,
            pipeline=pipeline,
            test_mode=test_mode,
            metainfo=metainfo,
        )

    @abstractmethod
    def read_entries(self, path: Path) -> list[tuple[str, int, str]]:
        """Read the list file.

        Returns:
            For each image its path below ``data_root``, its label, and where it stands in the
            list (for messages).
        """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read and check the list."""
        root, path = Path(self.data_root), Path(self.ann_file)
        if not root.is_dir():
            raise UserError(f'data_root {root} does not exist: fix the path or fetch the data')
        if not path.is_file():
            raise UserError(f'ann_file {path} does not exist: the data folder has another layout')
        entries = self.read_entries(path)
        if not entries:
            raise UserError(f'ann_file {path} lists no images')
        for name, label, where in entries:
            if not 0 <= label < self.num_classes:
                raise UserError(
                    f'label {label} of {name} ({where}) is outside 0..{self.num_classes - 1}: '
                    'fix the list or the number of classes'
                )
        items = [{'img_path': str(root / name), 'gt_label': label} for name, label, _ in entries]
        return self._without_bad(items) if self.on_bad_image == 'skip' else items

    def prepare_data(self, index: int) -> Any:
        """Run the pipeline; an unreadable image is named."""
        path = Path(self.get_data_info(index)['img_path'])
        try:
            return super().prepare_data(index)
        except _IMAGE_ERRORS as error:
            if isinstance(error, UserError) or self._is_readable(path):
                raise
            problem = 'cannot be decoded' if path.is_file() else 'does not exist'
            raise UserError(
                f"image {path} {problem}: repair it, or set the data set's on_bad_image='skip'"
            ) from error

    def _without_bad(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        good = [item for item in items if self._is_readable(Path(item['img_path']))]
        bad = [item['img_path'] for item in items if item not in good]
        if not good:
            raise UserError(f'none of the {len(items)} images of {self.ann_file} can be read')
        if bad:
            print_log(
                f'skipped {len(bad)} of {len(items)} images of {self.ann_file} that cannot be '
                f'read: {", ".join(bad[:5])}{" ..." if len(bad) > 5 else ""}',
                logger='current',
            )
        return good

    def _is_readable(self, path: Path) -> bool:
        """Whether PIL, which notices truncation, and the pipeline's own loader can decode it."""
        loader = self.pipeline.transforms[0] if self.pipeline.transforms else None
        try:
            mmcv.imread(path, backend='pillow')
            if getattr(loader, 'imdecode_backend', 'pillow') != 'pillow':
                loader({'img_path': str(path)})
        except _IMAGE_ERRORS:
            return False
        return True
