"""Files and folders that a config names, looked up before anything is loaded."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from hstpeft.engine.config import find_class
from hstpeft.errors import UserError


def check_paths(cfg: Config, loaders: Sequence[str]) -> None:
    """Look up the annotation files and folders of data loaders and of their evaluators.

    Left out is what raises by itself (our own list data sets), what is fetched when it is not
    there, and what is not on a local disk.

    Args:
        cfg: Config of a run.
        loaders: e.g. ``('train_dataloader', 'val_dataloader')``; those that the run uses.

    Raises:
        UserError: Names the key, e.g. ``val_dataloader.dataset.ann_file``, and the path.
    """
    for name in loaders:
        loader = cfg.get(name) or {}
        for key, dataset in dataset_configs(f'{name}.dataset', loader.get('dataset')):
            if not _minds_itself(dataset):
                _check_dataset(key, dataset)
        evaluator_key = name.replace('_dataloader', '_evaluator')
        for key, evaluator in _evaluators(evaluator_key, cfg.get(evaluator_key)):
            if is_local(evaluator.get('ann_file'), evaluator):
                _require(f'{key}.ann_file', Path(evaluator['ann_file']))


def dataset_configs(key: str, dataset: Any) -> Iterator[tuple[str, Mapping]]:
    """Yield the data sets inside wrappers (``dataset=``, ``datasets=``) with their keys."""
    if not isinstance(dataset, Mapping):
        return
    if 'dataset' in dataset:
        yield from dataset_configs(f'{key}.dataset', dataset['dataset'])
    elif 'datasets' in dataset:
        for index, part in enumerate(dataset['datasets']):
            yield from dataset_configs(f'{key}.datasets.{index}', part)
    else:
        yield key, dataset


def is_local(path: Any, holder: Mapping | None = None) -> bool:
    """Whether a path, given in a config with these other options, can be looked up on disk."""
    backend = ((holder or {}).get('backend_args') or {}).get('backend', 'local')
    return isinstance(path, str) and path != '' and '://' not in path and backend == 'local'


def _minds_itself(dataset: Mapping) -> bool:
    kind = dataset.get('type')
    if isinstance(kind, str) and kind.startswith('hstpeft.'):
        return True
    found = find_class(kind)
    return inspect.isclass(found) and 'download' in inspect.signature(found).parameters


def _check_dataset(key: str, dataset: Mapping) -> None:
    root = dataset.get('data_root')
    if is_local(root, dataset):
        _require(f'{key}.data_root', Path(root))
    elif root:
        return
    named = {'ann_file': dataset.get('ann_file')}
    prefix = dataset.get('data_prefix')
    if isinstance(prefix, Mapping):
        named.update((f'data_prefix.{part}', folder) for part, folder in prefix.items())
    else:
        named['data_prefix'] = prefix
    for part, value in named.items():
        if is_local(value, dataset):
            # An absolute path stands for itself, as in mmengine.
            _require(f'{key}.{part}', Path(root or '', value), value)


def _evaluators(key: str, evaluator: Any) -> Iterator[tuple[str, Mapping]]:
    if isinstance(evaluator, Mapping):
        yield key, evaluator
    elif isinstance(evaluator, Sequence):
        yield from ((f'{key}.{i}', e) for i, e in enumerate(evaluator) if isinstance(e, Mapping))


def _require(key: str, path: Path, written: str | None = None) -> None:
    if path.exists():
        return
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    shown = str(path) if written in (None, str(path)) else f'{written!r} ({path})'
    raise UserError(f'{key} {shown} does not exist: fix the path, which is right up to {parent}')
