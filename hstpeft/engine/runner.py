"""mmengine's runner, with errors that a user can act upon."""

from typing import Any

from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from hstpeft.engine.data_checks import check_not_empty, datasets_in
from hstpeft.engine.data_paths import check_paths, dataset_configs
from hstpeft.errors import UserError

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
            UserError: A path does not exist, the data set is empty, or a host cannot read it.
        """
        named = [name for name in _LOADERS if getattr(self, f'_{name}') is dataloader]
        name = named[0] if named else 'dataloader'
        check_paths(self.cfg, named)
        try:
            loader = super().build_dataloader(dataloader, seed, diff_rank_seed)
        except UserError:
            raise
        except (AssertionError, KeyError, OSError, TypeError, ValueError) as error:
            if 'need at least one array' in str(error):  # what packing no records says
                _explain_empty(name, dataloader)
            raise UserError(
                f'{name} cannot be built: {type(error).__name__}: {error} '
                '(HSTPEFT_TRACEBACK=1 shows where)'
            ) from error
        for key, dataset in datasets_in(f'{name}.dataset', loader.dataset):
            check_not_empty(key, dataset)
        return loader


def _explain_empty(name: str, loader: dict[str, Any]) -> None:
    """Build the data sets once more, with records unpacked, and raise for the empty one."""
    for key, cfg in dataset_configs(f'{name}.dataset', loader['dataset']):
        check_not_empty(key, DATASETS.build({**cfg, 'serialize_data': False}))
