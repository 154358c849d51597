"""What the list-based classification data sets have in common: checks, and bad images."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset

from hstpeft.datasets.loading import MAX_PIXELS, LoadImageFromFile, name_files
from hstpeft.errors import UserError, check_choice, check_rate, join_first

BAD_IMAGE_POLICIES = ('error', 'skip')
_SHOWN = 5


class ListedImages(BaseDataset):
    """Images and labels from a list file; a mistake in it is named by file and line.

    What may be intended is only logged: a file that is listed several times with the same label, and a
    class without any training image.

    Args:
        data_root: Folder that the list file and the image paths are relative to.
        ann_file: List file.
        num_classes: Labels must be in 0..num_classes - 1.
        pipeline: Transforms, starting with ``LoadImageFromFile``, which `hstpeft.LoadImageFromFile`
            replaces.
        test_mode: Whether this is for testing.
        on_bad_image: ``error`` names the file when it is met; ``skip`` reads every image once at
            the start, leaves the bad ones out and says how many. An image is bad that is missing,
            cannot be decoded, has more than ``max_pixels``, or values of no defined range.
        max_bad_share: Most of the images that may be left out, from 0 to below 1.
        max_pixels: Most pixels of an image.
        metainfo: ``classes`` and the like.

    Raises:
        UserError: A folder or file is missing, a line is broken, a label out of range, a file
            listed with two labels, or too many images are bad.
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
        max_bad_share: float = 0.1,
        max_pixels: int = MAX_PIXELS,
        metainfo: dict | None = None,
    ) -> None:
        check_choice('on_bad_image', on_bad_image, BAD_IMAGE_POLICIES)
        check_rate('max_bad_share', max_bad_share)
        self.num_classes = num_classes
        self.on_bad_image, self.max_bad_share = on_bad_image, max_bad_share
        self.max_pixels = max_pixels
        super().__init__(
            ann_file=ann_file,
            data_root=data_root,
            pipeline=pipeline,
            test_mode=test_mode,
            metainfo=metainfo,
            lazy_init=True,
        )
        name_files(self.pipeline, max_pixels)
        self.full_init()

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
        self._check_entries(entries)
        items = [{'img_path': str(root / name), 'gt_label': label} for name, label, _ in entries]
        return self._without_bad(items) if self.on_bad_image == 'skip' else items

    def _check_entries(self, entries: list[tuple[str, int, str]]) -> None:
        """Check the labels, and files that are listed several times."""
        first: dict[str, tuple[int, str]] = {}
        for name, label, where in entries:
            if not 0 <= label < self.num_classes:
                raise UserError(
                    f'label {label} of {name} ({where}) is outside 0..{self.num_classes - 1}: '
                    'fix the list or the number of classes'
                )
            before, where_before = first.setdefault(name, (label, where))
            if label != before:
                raise UserError(
                    f'{name} has the label {before} ({where_before}) and the label {label} '
                    f'({where}): leave one of them out'
                )
        if len(first) < len(entries):
            _note(f'{self.ann_file} lists {len(entries) - len(first)} images more than once')
        empty = sorted(set(range(self.num_classes)) - {label for label, _ in first.values()})
        if empty and not self.test_mode:
            _note(
                f'{self.ann_file} lists no image of {len(empty)} classes: {join_first([*map(str, empty)], _SHOWN)}'
            )

    def _without_bad(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        reasons = {path: self._why_bad(path) for path in {item['img_path'] for item in items}}
        bad = [item['img_path'] for item in items if reasons[item['img_path']]]
        good = [item for item in items if not reasons[item['img_path']]]
        if len(bad) > self.max_bad_share * len(items):
            raise UserError(
                f'{len(bad)} of {len(items)} images of {self.ann_file} are bad, more than '
                f'max_bad_share={self.max_bad_share} of them; the first: {reasons[bad[0]]}'
            )
        if bad:
            _note(
                f'skipped {len(bad)} of {len(items)} images of {self.ann_file}: {join_first(bad, _SHOWN)}'
            )
        return good

    def _why_bad(self, path: str) -> str | None:
        """Say what is wrong with an image, as the pipeline's own loader sees it."""
        loaders = [t for t in self.pipeline.transforms if isinstance(t, LoadImageFromFile)]
        usual = LoadImageFromFile(imdecode_backend='pillow', max_pixels=self.max_pixels)
        try:
            (loaders or [usual])[0]({'img_path': path})
        except UserError as error:
            return str(error)
        return None


def _note(text: str) -> None:
    print_log(text, logger='current')
