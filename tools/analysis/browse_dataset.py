"""Draw what a data set gives to a model: images with labels, masks and boxes, as files.

    python tools/analysis/browse_dataset.py CONFIG [--split train|val|test] [--number 50]
        [--mode transformed|original|pipeline] [--output-dir DIR] [--cfg-options KEY=VALUE ...]

`transformed` shows what the model reads, random transforms drawn anew; `original` what is on disk
(loading and packing only); `pipeline` a picture after every transform. A test pipeline of
segmentation or detection loads the annotations after it resized the image, since predictions are
compared at the original size: then only the original fits them, and is shown.
"""

import argparse
import copy
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from rich.progress import track

from hstpeft.engine.checks.datasets import datasets_in
from hstpeft.engine.checks.loaders import check_none_empty, explained
from hstpeft.engine.checks.paths import check_paths
from hstpeft.engine.config import load_config
from hstpeft.engine.launch import OptionAction, add_safe_config
from hstpeft.engine.safe_io import safe_io
from hstpeft.errors import UserError, one_line_errors
from hstpeft.visualization import PictureFolder, build_visualizer, to_picture

MODES = ('transformed', 'original', 'pipeline')
# A packed sample, and what is added to its file's name.
Stage = tuple[str, dict[str, Any]]


def build_dataset(cfg: Config, split: str) -> Any:
    """Build the data set of a split.

    Raises:
        UserError: The config has none, its files do not exist, it is empty, or a host cannot read
            it.
    """
    name = f'{split}_dataloader'
    loader = cfg.get(name)
    if loader is None:
        raise UserError(f'--split {split}: the config has no {name}')
    check_paths(cfg, [name])
    with explained(name, loader):
        dataset = DATASETS.build(loader.dataset)
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
    check_none_empty(name, dataset)
    return dataset


def fitting_mode(dataset: Any, mode: str) -> str:
    """Return the mode, or ``original`` where the annotations fit nothing else."""
    if mode == 'original' or not any(map(loads_late, plain_datasets(dataset))):
        return mode
    print(f'--mode {mode}: the pipeline loads annotations for the original images: shown on those')
    return 'original'


def loads_late(dataset: BaseDataset) -> bool:
    """Whether something is loaded after the image has been transformed."""
    names = [type(transform).__name__ for transform in dataset.pipeline.transforms]
    loads = [name.startswith('Load') for name in names if not name.startswith('Pack')]
    return loads != sorted(loads, reverse=True)


def samples(dataset: Any, mode: str) -> Iterator[list[Stage]]:
    """Give the stages of every sample.

    Raises:
        UserError: The pipeline ends without packing its results.
    """
    if mode == 'transformed':
        for index in range(len(dataset)):
            yield [('', dataset[index])]
        return
    for plain in plain_datasets(dataset):
        plain.pipeline = StagedPipeline(plain.pipeline.transforms, all_stages=mode == 'pipeline')
        for index in range(len(plain)):
            yield plain[index]


def count_samples(dataset: Any, mode: str) -> int:
    """Count what `samples` gives."""
    if mode == 'transformed':
        return len(dataset)
    return sum(map(len, plain_datasets(dataset)))


def plain_datasets(dataset: Any) -> list[BaseDataset]:
    """Return the data sets inside wrappers that repeat, mix or join others."""
    return [plain for _, plain in datasets_in('dataset', dataset)]


class StagedPipeline:
    """A pipeline that packs its results more than once.

    Args:
        transforms: The pipeline; the last one packs.
        all_stages: Pack after every transform; else only once, what was loaded.

    Raises:
        UserError: The last transform does not pack.
    """

    def __init__(self, transforms: Sequence[Callable], all_stages: bool) -> None:
        names = [type(transform).__name__ for transform in transforms]
        if not names or not names[-1].startswith('Pack'):
            raise UserError(
                f'the pipeline {names} does not end with a transform that packs: browse it with '
                '--mode transformed'
            )
        self.pack, self.all_stages = transforms[-1], all_stages
        self.steps = [
            (f'{number}_{name}', transform)
            for number, (name, transform) in enumerate(zip(names, transforms, strict=True))
            if not name.startswith('Pack') and (all_stages or name.startswith('Load'))
        ]

    def __call__(self, results: dict[str, Any]) -> list[Stage] | None:
        """Run the transforms; None if one of them gives the sample up."""
        stages = []
        for name, transform in self.steps:
            results = transform(results)
            if results is None:
                return None
            if self.all_stages:
                stages.append((name, self._packed(results)))
        return stages or [('', self._packed(results))]

    def _packed(self, results: dict[str, Any]) -> dict[str, Any]:
        """Pack a copy, with the meta information that is there so far."""
        pack = copy.copy(self.pack)
        pack.meta_keys = tuple(key for key in pack.meta_keys if key in results)
        return pack(copy.deepcopy(results))


def main(arguments: list[str] | None = None) -> None:
    """Draw the samples of one split."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='config file')
    parser.add_argument('--split', choices=('train', 'val', 'test'), default='train')
    parser.add_argument('--mode', choices=MODES, default='transformed')
    parser.add_argument('--number', type=int, default=50, help='samples to draw, the first ones')
    parser.add_argument(
        '--output-dir',
        type=Path,
        help='folder of the pictures; default: work_dirs/<name of the config>/browse_<split>',
    )
    parser.add_argument('--cfg-options', nargs='+', action=OptionAction, default={})
    add_safe_config(parser)
    options = parser.parse_args(arguments)
    with one_line_errors('browse_dataset.py'), safe_io():
        if options.number < 1:
            raise UserError(f'--number {options.number} must be at least 1')
        cfg = load_config(options.config, options.cfg_options, options.safe_config)
        default = Path('work_dirs', Path(options.config).stem, f'browse_{options.split}')
        folder = PictureFolder(options.output_dir or default, '--output-dir')
        dataset = build_dataset(cfg, options.split)
        visualizer = build_visualizer(cfg, dataset.metainfo)
        mode = fitting_mode(dataset, options.mode)
        number = min(options.number, count_samples(dataset, mode))
        found = itertools.islice(samples(dataset, mode), number)
        for stages in track(found, 'drawing', total=number):
            for stage, packed in stages:
                picture = to_picture(packed['inputs'])
                folder.add(visualizer, picture, packed['data_samples'], False, stage)
    print(f'{len(folder.names)} pictures in {folder.folder}')


if __name__ == '__main__':
    main()
