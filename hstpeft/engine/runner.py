"""mmengine's runner, with errors that a user can act upon."""

from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from hstpeft.compat import loader_config, whole_dataset
from hstpeft.engine.checks.datasets import check_not_empty, datasets_in
from hstpeft.engine.checks.paths import check_paths, dataset_configs
from hstpeft.errors import UserError

BUILD_ERRORS = (AssertionError, KeyError, OSError, TypeError, ValueError)
"""What hosts and mmengine raise for data that they cannot read."""
_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


class CheckedRunner(Runner):
    """A `Runner` that says in one line what is wrong with a data set.

    It does so when it builds the loader, which is before any hook runs: mmengine itself breaks off
    while it packs no records, and an infinite sampler looks for the first one for ever.
    """

    def build_dataloader(
        self, dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a loader as mmengine does.

        Raises:
            UserError: A path does not exist, the data set is empty or smaller than the only batch,
                or a host cannot read it.
        """
        named = [name for name in _LOADERS if loader_config(self, name) is dataloader]
        name = named[0] if named else 'dataloader'
        check_paths(self.cfg, named)
        try:
            loader = super().build_dataloader(dataloader, seed, diff_rank_seed)
            if _goes_beyond_end(loader.dataset):
                whole = {k: v for k, v in dataloader.items() if k != 'num_batch_per_epoch'}
                loader = super().build_dataloader(whole, seed, diff_rank_seed)
        except UserError:
            raise
        except BUILD_ERRORS as error:
            raise build_error(name, dataloader, error) from error
        for key, dataset in datasets_in(f'{name}.dataset', loader.dataset):
            check_not_empty(key, dataset)
        _check_batches(name, loader)
        return loader


def _check_batches(name: str, loader: DataLoader) -> None:
    """Raise if all images are in the one incomplete batch that ``drop_last`` drops."""
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


def _goes_beyond_end(dataset: Any) -> bool:
    """Whether ``num_batch_per_epoch`` asks for more images than there are, in vain."""
    whole = whole_dataset(dataset)
    return whole is not dataset and len(dataset) > len(whole)


def build_error(name: str, loader: dict[str, Any], error: Exception) -> UserError:
    """Say what an error of `BUILD_ERRORS` means for the data loader that could not be built.

    Raises:
        UserError: The data set is empty.
    """
    if 'need at least one array' in str(error):  # what packing no records says
        _explain_empty(name, loader)
    return UserError(
        f'{name} cannot be built: {type(error).__name__}: {error} (HSTPEFT_TRACEBACK=1 shows where)'
    )


def _explain_empty(name: str, loader: dict[str, Any]) -> None:
    """Build the data sets once more, with records unpacked, and raise for the empty one."""
    for key, cfg in dataset_configs(f'{name}.dataset', loader['dataset']):
        check_not_empty(key, DATASETS.build({**cfg, 'serialize_data': False}))
