"""What is wrong with a loaded data set, said before training instead of never.

Speaks mmengine's data set protocol (length and `get_data_info`), so it holds for all hosts.
"""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from hstpeft.compat import chosen_indices, whole_dataset
from hstpeft.engine.checks.paths import is_local
from hstpeft.errors import UserError
from hstpeft.registry import HOOKS

MAX_FILES = 20_000
"""Images that are looked up on disk; of more, so many, evenly spread."""
_FILES = {
    'img_path': ('images', 'data_root, data_prefix or the file names in ann_file'),
    'seg_map_path': ('masks', 'data_prefix.seg_map_path or seg_map_suffix'),
}


class Categories(NamedTuple):
    """What a COCO file says about itself.

    Attributes:
        num_images: Images that it lists.
        names: Of each category id.
    """

    num_images: int
    names: dict[int, str]


class Outcome(NamedTuple):
    """What came of a piece of work in one process.

    Attributes:
        result: What it returned.
        refusal: Message of its `UserError`.
        failure: Name and message of any other error.
    """

    result: Any = None
    refusal: str | None = None
    failure: str | None = None


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Check the data sets of a run once, before their first use.

    Finds: no images at all, class names that the annotations do not have, no instance of any
    class, files that are missing on disk. Images that ``filter_cfg`` leaves out are counted in
    the log. Validation data are checked before training too. If one process fails, all do.

    Raises:
        UserError: Names the data set, what is wrong and the remedy.
    """

    def __init__(self) -> None:
        self._checked: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Check training and validation data."""
        self._check(runner, 'train', runner.train_loop)
        self._check(runner, 'val', runner.val_loop)

    def before_val(self, runner: Runner) -> None:
        """Check the validation data of a run without training."""
        self._check(runner, 'val', runner.val_loop)

    def before_test(self, runner: Runner) -> None:
        """Check the test data."""
        self._check(runner, 'test', runner.test_loop)

    def _check(self, runner: Runner, name: str, loop: Any) -> None:
        loader = getattr(loop, 'dataloader', None)
        if loader is None or name in self._checked:
            return
        self._checked.add(name)
        parts = dict(datasets_in(f'{name}_dataloader.dataset', loader.dataset))

        def read() -> list[Categories | None]:
            # A file of COCO's size takes a while: one process reads it for all.
            return [_coco_file(part) for part in parts.values()] if is_main_process() else []

        def check() -> None:
            for (key, dataset), file in zip(parts.items(), files, strict=True):
                for note in check_dataset(key, dataset, file, _is_scored(loop)):
                    runner.logger.info(note)

        files = _in_all(read)[0]
        _in_all(check)


def _in_all(work: Callable[[], Any]) -> list[Any]:
    """Do something in every process; returns what each made of it.

    If it fails in one, it fails in all: they would wait for that one for ever.
    """
    own = None
    try:
        outcome = Outcome(work())
    except UserError as error:
        outcome, own = Outcome(refusal=str(error)), error
    except Exception as error:  # whatever it is, the others must hear of it
        outcome, own = Outcome(failure=f'{type(error).__name__}: {error}'), error
    outcomes = all_gather_object(outcome)
    if own is not None:
        raise own
    for outcome in outcomes:
        if outcome.refusal is not None:
            raise UserError(outcome.refusal)
        if outcome.failure is not None:
            raise RuntimeError(f'another process failed in the check of data: {outcome.failure}')
    return [outcome.result for outcome in outcomes]


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
        UserError: See `DataCheckHook`.
    """
    check_not_empty(key, dataset)
    if not hasattr(dataset, 'get_data_info'):
        return []
    notes = []
    if file is not None:
        notes += _check_classes(key, dataset, file)
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
        raise UserError(f'{key} ({type(dataset).__name__}) is empty: mend its paths or options')
    unfiltered = copy.copy(dataset)  # reading again must not touch what is in use
    count = len(unfiltered.load_data_list())
    if not count:
        raise UserError(f'{key}: {_why_no_image(dataset)}')
    file = _coco_file(dataset)
    if file is not None:
        _check_classes(key, dataset, file)
    chosen = getattr(dataset, 'filter_cfg', None)
    if chosen:
        classes = _shown(dataset.metainfo.get('classes') or ())
        raise UserError(
            f'{key}.filter_cfg {dict(chosen)} leaves out all {count} images of {dataset.ann_file}: '
            f'annotate them with the classes {classes}, or loosen it'
        )
    raise UserError(f'{key}.indices choose none of its {count} images: raise them')


def _why_no_image(dataset: Any) -> str:
    if dataset.ann_file and not Path(dataset.ann_file).is_dir():
        return f'ann_file {dataset.ann_file} lists no images: mend the file or the path'
    prefix = dataset.data_prefix
    folder = prefix.get('img_path') or prefix.get('img') or dataset.data_root or '.'
    suffix = getattr(dataset, 'img_suffix', '')
    present = {path.suffix for path in Path(folder).rglob('*') if path.is_file()}
    there = f'there are {_shown(sorted(present))}' if present else 'there are no files at all'
    return (
        f'{folder} holds no file that ends in {suffix!r}, {there}: mend data_prefix or img_suffix'
    )


def _coco_file(dataset: Any) -> Categories | None:
    """Read what mmdet keeps no record of; None for other data sets."""
    if not hasattr(dataset, 'cat_ids') or not str(dataset.ann_file).endswith('.json'):
        return None
    if not is_local(dataset.ann_file, vars(dataset)):
        return None
    content = json.loads(Path(dataset.ann_file).read_bytes())
    names = {category['id']: category['name'] for category in content.get('categories', ())}
    return Categories(len(content.get('images', ())), names)


def _check_classes(key: str, dataset: Any, file: Categories) -> list[str]:
    """Compare the class names with the file's: mmdet drops a name that it does not find.

    All later classes would then get the label of their neighbour.
    """
    classes = dataset.metainfo.get('classes') or ()
    if isinstance(classes, str):
        raise UserError(
            f"{key}.metainfo.classes {classes!r} is no list of names: write ('{classes}',)"
        )
    known = list(file.names.values())
    unknown = [name for name in classes if name not in known]
    if unknown and len(dataset.cat_ids) < len(classes):
        raise UserError(
            f'{key}.metainfo.classes: {_shown(unknown)} match no category of {dataset.ann_file}, '
            f'which has {_shown(known)}: mend the names'
        )
    labelled = [file.names[index] for index in dataset.cat_ids]
    if labelled != list(classes) and sorted(labelled) == sorted(classes):
        raise UserError(
            f'{key}.metainfo.classes {_shown(classes)} are in another order than the categories '
            f'of {dataset.ann_file}, by which mmdet numbers them: set {tuple(labelled)}'
        )
    unused = [name for name in known if name not in classes]
    if not unused:
        return []
    return [f'{key}: the categories {_shown(unused)} of {dataset.ann_file} are in no class']


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
                f'mend {remedy}'
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


def _is_scored(loop: Any) -> bool:
    """Whether the predictions are compared with annotations, not only written to a file."""
    metrics = getattr(getattr(loop, 'evaluator', None), 'metrics', ())
    return not any(getattr(metric, 'format_only', False) for metric in metrics)


def _shown(names: Sequence[str], most: int = 20) -> str:
    shown = ', '.join(map(repr, names[:most]))
    return shown + (f' and {len(names) - most} more' if len(names) > most else '')
