"""What is wrong with a loaded data set, said before training instead of never.

Speaks mmengine's data set protocol (length and `get_data_info`), so it holds for all hosts.
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hstpeft.compat import chosen_indices, whole_dataset
from hstpeft.engine.checks.coco import Categories, check_classes, quoted, read_categories
from hstpeft.engine.checks.paths import is_local
from hstpeft.errors import UserError

MAX_FILES = 20_000
"""Images that are looked up on disk; of more, so many, evenly spread."""
_FILES = {
    'img_path': ('images', 'data_root, data_prefix or the file names in ann_file'),
    'seg_map_path': ('masks', 'data_prefix.seg_map_path or seg_map_suffix'),
}


def check_dataset(
    key: str, dataset: Any, file: Categories | None = None, is_scored: bool = True
) -> list[str]:
    """Check one data set without wrappers.

    Args:
        key: What it is called in messages, e.g. ``train_dataloader.dataset``.
        dataset: Any; one without mmengine's protocol is checked for its length only.
        file: What its COCO file says about itself, if it has one.
        is_scored: Whether its annotations are used.

    Returns:
        What is worth a line in the log.

    Raises:
        UserError: The data set is wrong; names it, what is wrong and the remedy.
    """
    check_not_empty(key, dataset)
    if not hasattr(dataset, 'get_data_info'):
        return []
    notes = []
    if file is not None:
        notes += check_classes(key, dataset, file)
    if is_scored:
        _check_instances(key, dataset)
    # Our list data sets look after their images themselves; rendered images are no files.
    if not getattr(dataset, 'checks_images', False):
        _check_files(key, dataset, [*_FILES] if is_scored else ['img_path'])
    return notes + _count_filtered(key, dataset, file)


def datasets_in(key: str, dataset: Any) -> Iterator[tuple[str, Any]]:
    """Yield the data sets inside wrappers with their keys; an empty wrapper as it is.

    Of one that ``num_batch_per_epoch`` has cut short it is the whole: what a cut shows of it would
    be taken for all that there is.
    """
    dataset = whole_dataset(dataset)
    parts, inner = getattr(dataset, 'datasets', None), getattr(dataset, 'dataset', None)
    if isinstance(parts, Sequence) and parts:
        for index, part in enumerate(parts):
            yield from datasets_in(f'{key}.datasets.{index}', part)
    elif inner is not None:
        yield from datasets_in(f'{key}.dataset', inner)
    else:
        yield key, dataset


def check_not_empty(key: str, dataset: Any) -> None:
    """Raise if a data set holds nothing, with the reason.

    An infinite sampler would look for its first image for ever.
    """
    if not hasattr(dataset, '__len__') or len(dataset):
        return
    if not hasattr(dataset, 'load_data_list'):
        raise UserError(f'{key} ({type(dataset).__name__}) is empty: fix its paths or options')
    unfiltered = copy.copy(dataset)  # reading again must not touch what is in use
    count = len(unfiltered.load_data_list())
    if not count:
        raise UserError(f'{key}: {_why_no_image(dataset)}')
    file = read_categories(dataset)
    if file is not None:
        check_classes(key, dataset, file)
    chosen = getattr(dataset, 'filter_cfg', None)
    if chosen:
        classes = quoted(dataset.metainfo.get('classes') or ())
        raise UserError(
            f'{key}.filter_cfg {dict(chosen)} leaves out all {count} images of {dataset.ann_file}: '
            f'annotate them with the classes {classes}, or loosen it'
        )
    raise UserError(f'{key}.indices choose none of its {count} images: raise them')


def _why_no_image(dataset: Any) -> str:
    if dataset.ann_file and not Path(dataset.ann_file).is_dir():
        return f'ann_file {dataset.ann_file} lists no images: fix the file or the path'
    prefix = dataset.data_prefix
    folder = prefix.get('img_path') or prefix.get('img') or dataset.data_root or '.'
    suffix = getattr(dataset, 'img_suffix', '')
    present = {path.suffix for path in Path(folder).rglob('*') if path.is_file()}
    there = f'there are {quoted(sorted(present))}' if present else 'there are no files at all'
    return f'{folder} holds no file that ends in {suffix!r}, {there}: fix data_prefix or img_suffix'


def _check_instances(key: str, dataset: Any) -> None:
    if 'instances' not in dataset.get_data_info(0):
        return
    if not any(dataset.get_data_info(index)['instances'] for index in range(len(dataset))):
        raise UserError(
            f'{key}.ann_file {dataset.ann_file} has no usable box in any of {len(dataset)} images: '
            'the annotations are empty, or their boxes are'
        )


def _check_files(key: str, dataset: Any, fields: Sequence[str]) -> None:
    count = min(len(dataset), MAX_FILES)
    missing: dict[str, list[str]] = {field: [] for field in fields}
    for index in np.linspace(0, len(dataset) - 1, count).astype(int).tolist():
        info = dataset.get_data_info(index)
        for field in fields:
            path = info.get(field)
            if is_local(path, vars(dataset)) and not Path(path).is_file():
                missing[field].append(path)
    for field, paths in missing.items():
        if paths:
            what, remedy = _FILES[field]
            raise UserError(
                f'{key}: {len(paths)} of {count} {what} do not exist, the first is {paths[0]}: '
                f'fix {remedy}'
            )


def _count_filtered(key: str, dataset: Any, file: Categories | None) -> list[str]:
    """Say how many images were left out."""
    chosen = getattr(dataset, 'filter_cfg', None)
    if not chosen or dataset.test_mode:
        return []
    if file is None:
        count = len(copy.copy(dataset).load_data_list())
    else:
        count = file.num_images
    left_out = count - len(dataset)
    cause = 'filter_cfg' if chosen_indices(dataset) is None else 'filter_cfg and indices'
    return [f'{key}: {cause} left out {left_out} of {count} images'] if left_out else []
