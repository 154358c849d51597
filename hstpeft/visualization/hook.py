"""Pictures of a test."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from hstpeft.errors import UserError
from hstpeft.visualization.pictures import PictureFolder, build_visualizer, read_picture


class PicturesHook(Hook):
    """Draw every test image with its prediction, and with its annotation if it has one.

    The hosts' own hooks differ in where the files go, which images are drawn and in the order of
    the colours; this one writes ``<folder>/<name of the image>`` for all of them, on the image as
    it is on disk. Segmentation: annotation left, prediction right. Detection likewise, with boxes
    and masks of a score above 0.3. Classification: both labels on the image.

    Args:
        folder: Where the pictures go; made if need be.

    Raises:
        UserError: The folder cannot be made or written, or several processes share the test.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = PictureFolder(folder, '--show-dir')

    def before_test(self, runner: Runner) -> None:
        """Build the visualizer; the data set knows the names of the classes."""
        if get_world_size() > 1:
            raise UserError(
                '--show-dir draws in one process, which would see a part of the images only: '
                'test without --launcher'
            )
        self.visualizer = build_visualizer(runner.cfg, runner.test_dataloader.dataset.metainfo)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Mapping[str, Any],
        outputs: Sequence[BaseDataElement],
    ) -> None:
        """Draw the images of a batch."""
        for inputs, sample in zip(data_batch['inputs'], outputs, strict=True):
            picture = read_picture(sample, inputs)
            self.folder.add(self.visualizer, picture, sample, draw_pred=True)

    def after_test(self, runner: Runner) -> None:
        """Say where the pictures are."""
        count = len(self.folder.names)
        print_log(f'{count} pictures in {self.folder.folder}', logger='current')
