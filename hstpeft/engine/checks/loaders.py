"""What is wrong with a data loader, said when it is built or as soon as a batch shows it.

It is built before any hook runs: of an empty data set mmengine fails to pack the records, and an
infinite sampler looks for the first one for ever.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.registry import DATASETS
from torch.utils.data import DataLoader

from hstpeft.datasets.loading import name_files
from hstpeft.engine.checks.building import explain
from hstpeft.engine.checks.datasets import check_not_empty, datasets_in
from hstpeft.engine.checks.paths import dataset_configs
from hstpeft.errors import LostProcessError, UserError

# What hosts and mmengine raise for data that they cannot read.
_BUILD_ERRORS = (AssertionError, KeyError, OSError, TypeError, ValueError)


def check_loader(name: str, loader: DataLoader) -> None:
    """Check a loader for data sets that hold nothing, and for a batch size that leaves nothing.

    Args:
        name: Its key in the config, e.g. ``train_dataloader``.
        loader: As mmengine builds it.

    Raises:
        UserError: Names the key and the reason.
    """
    check_none_empty(name, loader.dataset)
    batches = loader.batch_sampler
    drops = getattr(batches, 'drop_last', False)
    # An infinite sampler has a length too, but goes on.
    if not drops or isinstance(batches.sampler, InfiniteSampler) or len(batches):
        return
    count = len(batches.sampler)
    raise UserError(
        f'{name}.batch_size {batches.batch_size} is more than the {count} images that a process '
        f'has, and drop_last=True leaves out the incomplete batch, the only one: set batch_size to '
        f'at most {count}, or drop_last=False'
    )


def name_bad_files(name: str, loader: DataLoader) -> None:
    """Let the data sets of a loader name a file that they cannot read, whichever host they are from."""
    for _, part in datasets_in(f'{name}.dataset', loader.dataset):
        name_files(getattr(part, 'pipeline', None))


def check_none_empty(name: str, dataset: Any) -> None:
    """Raise if the data set of a loader, or one inside its wrappers, holds nothing."""
    for key, part in datasets_in(f'{name}.dataset', dataset):
        check_not_empty(key, part)


@contextmanager
def batches_explained() -> Iterator[None]:
    """Say what an error means that a loader or a batch causes while a runner works.

    Raises:
        LostProcessError: A loader worker died.
        UserError: A norm over the batch met a batch of one image.
    """
    try:
        yield
    except RuntimeError as error:
        # torch knows no class of its own for it; a worker's own errors are raised as themselves.
        if not str(error).startswith('DataLoader worker (pid'):
            raise
        # What took the worker, if torch was told; an empty queue says nothing.
        reason = (str(error.__cause__ or '') or str(error)).splitlines()[0].rstrip(' .')
        raise LostProcessError(
            f'{reason}. If memory ran out (the kernel kills for it; /dev/shm counts too), lower '
            'num_workers or batch_size of the loader; num_workers=0 shows an error of the data set'
        ) from error
    except ValueError as error:
        if not str(error).startswith('Expected more than 1 value per channel when training'):
            raise
        raise UserError(
            'a BatchNorm met a batch of one image, of which it knows no deviation: set '
            "train_dataloader's drop_last=True, or a batch_size whose last batch has two or more "
            f'images ({error})'
        ) from error


@contextmanager
def explained(name: str, loader: Mapping[str, Any]) -> Iterator[None]:
    """Say what an error means that is raised while a loader, or its data set, is built.

    Args:
        name: Key of the loader in the config.
        loader: Its config.

    Raises:
        UserError: A host cannot read the data, or there are none.
    """
    try:
        yield
    except UserError:
        raise
    except _BUILD_ERRORS as error:
        if 'need at least one array' in str(error):  # what packing no records says
            _explain_empty(name, loader)
        raise UserError(explain(error, {name: loader})) from error


def _explain_empty(name: str, loader: Mapping[str, Any]) -> None:
    """Build the data sets once more, with records unpacked, and raise for the empty one."""
    for key, cfg in dataset_configs(f'{name}.dataset', loader['dataset']):
        check_not_empty(key, DATASETS.build({**cfg, 'serialize_data': False}))
