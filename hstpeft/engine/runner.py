"""mmengine's runner, with errors that a user can act upon, and checkpoints that run nothing."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner.checkpoint import load_from_local as mmengine_reader
from torch import nn
from torch.utils.data import DataLoader

from hstpeft.compat import loader_config, whole_dataset
from hstpeft.delta import load_checkpoint
from hstpeft.engine.checks.building import one_line_until
from hstpeft.engine.checks.loaders import check_loader, explained
from hstpeft.engine.promises import at_work, with_promised

_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


class CheckedRunner(Runner):
    """A `Runner` that says in one line what is wrong with a data set, and reads checkpoints safely.

    Attributes:
        checkpoints: What has been read already, by path: it is not read again. Each is let go
            when it is loaded.
        has_begun: Whether a first step of training, validation or test is over.
    """

    has_begun = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.checkpoints: dict[str, dict[str, Any]] = {}
        super().__init__(*args, **kwargs)

    def register_custom_hooks(self, hooks: list[Hook | dict]) -> None:
        """Register a config's own hooks, and those of `PROMISED_HOOKS` that it does not name."""
        super().register_custom_hooks(with_promised(hooks))

    def train(self) -> nn.Module:
        """Train as mmengine does, within `at_work`."""
        with self._explained(), at_work(self):
            return super().train()

    def val(self) -> dict:
        """Validate as mmengine does, within `at_work`."""
        with self._explained(), at_work(self):
            return super().val()

    def test(self) -> dict:
        """Test as mmengine does, within `at_work`."""
        with self._explained(), at_work(self):
            return super().test()

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call the hooks, and note that a first step is over."""
        super().call_hook(fn_name, **kwargs)
        if fn_name.startswith('after_') and fn_name.endswith('_iter'):
            self.has_begun = True

    def _explained(self) -> AbstractContextManager[None]:
        return one_line_until(lambda: self.has_begun, self.cfg, lambda: self.model)

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

        with _local_reader(load_from_local):
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
        return loader


@contextmanager
def _local_reader(reader: Callable[[str, Any], dict[str, Any]]) -> Iterator[None]:
    """Let mmengine read local checkpoints by a function; its own falls back to running a pickle."""
    CheckpointLoader.register_scheme('', reader, force=True)
    try:
        yield
    finally:
        CheckpointLoader.register_scheme('', mmengine_reader, force=True)


def _goes_beyond_end(dataset: Any) -> bool:
    """Whether ``num_batch_per_epoch`` asks for more images than there are, in vain."""
    whole = whole_dataset(dataset)
    return whole is not dataset and len(dataset) > len(whole)
