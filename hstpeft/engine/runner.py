"""mmengine's runner, with errors that a user can act upon, and checkpoints that run nothing."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from hstpeft.compat import loader_config, whole_dataset
from hstpeft.delta import load_checkpoint
from hstpeft.engine.checks.loaders import check_loader, explained, name_bad_files
from hstpeft.engine.promises import at_work, with_promised
from hstpeft.engine.safe_io import safe_io
from hstpeft.engine.saving import safe

_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


class CheckedRunner(Runner):
    """A `Runner` that says in one line what is wrong with a data set, and reads checkpoints safely.

    Attributes:
        checkpoints: What has been read already, by path: it is not read again. Each is let go
            when it is loaded.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.checkpoints: dict[str, dict[str, Any]] = {}
        with safe_io():
            super().__init__(*args, **kwargs)

    def register_default_hooks(self, hooks: dict[str, Hook | dict | None] | None = None) -> None:
        """Register the default hooks, with `SafeCheckpointHook` for mmengine's own."""
        hooks = {'checkpoint': dict(type='CheckpointHook', interval=1), **(hooks or {})}
        super().register_default_hooks({name: safe(hook) for name, hook in hooks.items()})

    def register_custom_hooks(self, hooks: list[Hook | dict]) -> None:
        """Register a config's own hooks, and those of `PROMISED_HOOKS` that it does not name."""
        super().register_custom_hooks(with_promised(hooks))

    def train(self) -> nn.Module:
        """Train as mmengine does, within `at_work`."""
        with at_work(self):
            return super().train()

    def val(self) -> dict:
        """Validate as mmengine does, within `at_work`."""
        with at_work(self):
            return super().val()

    def test(self) -> dict:
        """Test as mmengine does, within `at_work`."""
        with at_work(self):
            return super().test()

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint or a delta from the disk as mmengine does, but run nothing that it holds.

        Its tensors stay on the CPU, whatever ``map_location`` says: whoever takes them copies them
        to a device of their own.

        Raises:
            UserError: The file is missing, damaged, or holds more than plain data.
        """

        def load_from_local(path: str, map_location: Any) -> dict[str, Any]:
            checkpoint = self.checkpoints.pop(path, None) or load_checkpoint(path)
            checkpoint.get('meta', {}).pop('config', None)  # `Runner.resume` runs its text
            return checkpoint

        with safe_io(load_from_local):
            return super().load_checkpoint(filename, *args, **kwargs)

    def build_dataloader(
        self, dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a loader as mmengine does.

        Raises:
            UserError: The data set is empty or smaller than the only batch, or a host cannot read
                it.
        """
        named = [name for name in _LOADERS if loader_config(self, name) is dataloader]
        name = named[0] if named else 'dataloader'
        with explained(name, dataloader):
            loader = super().build_dataloader(dataloader, seed, diff_rank_seed)
            if _goes_beyond_end(loader.dataset):
                whole = {k: v for k, v in dataloader.items() if k != 'num_batch_per_epoch'}
                loader = super().build_dataloader(whole, seed, diff_rank_seed)
        check_loader(name, loader)
        name_bad_files(name, loader)
        return loader


def _goes_beyond_end(dataset: Any) -> bool:
    """Whether ``num_batch_per_epoch`` asks for more images than there are, in vain."""
    whole = whole_dataset(dataset)
    return whole is not dataset and len(dataset) > len(whole)
