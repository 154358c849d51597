"""mmengine's runner, with all that hstpeft promises of a run, whatever its config says."""

from contextlib import AbstractContextManager
from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from hstpeft.compat import loader_config, whole_dataset
from hstpeft.delta import load_checkpoint
from hstpeft.engine.checks.building import one_line_until
from hstpeft.engine.checks.loaders import check_loader, explained, name_bad_files
from hstpeft.engine.checks.parts import LOADERS
from hstpeft.engine.promises import at_work, with_promised
from hstpeft.engine.resume.batches import ResumableBatches, make_resumable, seed_samples
from hstpeft.engine.resume.settings import check_resume
from hstpeft.engine.resume.signals import Interruption, outlive_signals
from hstpeft.engine.resume.state import check_optimizer, place_in_epoch, remove_interrupted
from hstpeft.engine.safe_io import safe_io
from hstpeft.engine.saving import make_safe
from hstpeft.errors import UserError

_LOOPS = {
    True: 'hstpeft.ResumableEpochLoop',
    'EpochBasedTrainLoop': 'hstpeft.ResumableEpochLoop',
    False: 'hstpeft.ResumableIterLoop',
    'IterBasedTrainLoop': 'hstpeft.ResumableIterLoop',
}


class CheckedRunner(Runner):
    """A `Runner` that keeps what docs/architecture.md promises.

    It has the hooks of `PROMISED_HOOKS`, works within `at_work`, can be resumed from any step, reads
    checkpoints without running anything in them, and says in one line what is wrong before the first
    step.

    Attributes:
        checkpoints: What has been read already, by path, so as not to read it again. Each is let
            go when it is loaded.
        resumed: Path of the checkpoint that training goes on from; None if it starts afresh.
        interruption: Holds the signal that has asked a training to stop.
        has_begun: Whether a first step of training, validation or test is over.
    """

    has_begun = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.checkpoints: dict[str, dict[str, Any]] = {}
        self.resumed: str | None = None
        self.interruption = Interruption()
        with safe_io():
            super().__init__(*args, **kwargs)

    def register_default_hooks(self, hooks: dict[str, Hook | dict | None] | None = None) -> None:
        """Register the default hooks, with `SafeCheckpointHook` for mmengine's own."""
        hooks = {'checkpoint': dict(type='CheckpointHook', interval=1), **(hooks or {})}
        super().register_default_hooks({name: make_safe(hook) for name, hook in hooks.items()})

    def register_custom_hooks(self, hooks: list[Hook | dict]) -> None:
        """Register a config's own hooks, and those of `PROMISED_HOOKS` that it does not name."""
        super().register_custom_hooks(with_promised(hooks))

    def train(self) -> nn.Module:
        """Train as mmengine does, within `at_work`; a signal saves and ends it."""
        with self._explained(), at_work(self), self.interruption:
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

        Its tensors stay on the CPU, whatever ``map_location`` says: model and optimiser copy them to
        their own devices.

        Raises:
            UserError: The file is missing, damaged, or holds more than plain data.
        """

        def load_from_local(path: str, map_location: Any) -> dict[str, Any]:
            checkpoint = self.checkpoints.pop(path, None) or load_checkpoint(path)
            checkpoint.get('meta', {}).pop('config', None)  # `Runner.resume` runs its text
            return checkpoint

        with safe_io(load_from_local):
            return super().load_checkpoint(filename, *args, **kwargs)

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Go on from a training checkpoint, within an epoch too.

        Raises:
            UserError: It holds no training, or one whose settings this run would ignore.
        """
        checkpoint = self.checkpoints.get(filename) or load_checkpoint(filename)
        check_resume(checkpoint, self.cfg, filename)
        meta = checkpoint['meta']
        # mmengine would put it over the config's; `keep_seed` does so where that has none.
        meta.pop('seed', None)
        self.checkpoints[filename] = checkpoint
        try:
            super().resume(filename, *args, **kwargs)
        except (IndexError, KeyError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f'--resume {filename}: its optimiser or schedule is another: '
                f'{type(error).__name__}: {error}'
            ) from error
        check_optimizer(self, filename)
        place_in_epoch(self, meta)
        self.resumed = filename

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """Save as mmengine does; all processes must call it."""
        self.call_hook('before_save_on_all_ranks')
        super().save_checkpoint(out_dir, filename, *args, **kwargs)
        if self.rank == 0:
            remove_interrupted(self.work_dir, filename)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build a training loop; those that go on from any step stand in for mmengine's own."""
        if isinstance(loop, dict):
            kind = loop.get('type', loop.get('by_epoch'))
            rest = {key: value for key, value in loop.items() if key not in ('type', 'by_epoch')}
            loop = {**rest, 'type': _LOOPS[kind]} if kind in _LOOPS else loop
        return super().build_train_loop(loop)

    def build_dataloader(
        self, dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a loader as mmengine does; that of the training can start at any batch.

        Raises:
            UserError: The data set is empty or smaller than the only batch, or a host cannot read
                it.
        """
        named = [name for name in LOADERS if loader_config(self, name) is dataloader]
        name = named[0] if named else 'dataloader'
        if name == 'train_dataloader' and seed is not None and dataloader.get('sampler'):
            common = seed - get_rank() if diff_rank_seed else seed
            dataloader = make_resumable(dataloader, seed, common)
        with explained(name, dataloader):
            loader = super().build_dataloader(dataloader, seed, diff_rank_seed)
            if _goes_beyond_end(loader.dataset):
                whole = {k: v for k, v in dataloader.items() if k != 'num_batch_per_epoch'}
                loader = super().build_dataloader(whole, seed, diff_rank_seed)
        if isinstance(loader.batch_sampler, ResumableBatches):
            seed_samples(loader)
        outlive_signals(loader)
        check_loader(name, loader)
        name_bad_files(name, loader)
        return loader


def _goes_beyond_end(dataset: Any) -> bool:
    """Whether ``num_batch_per_epoch`` asks for more images than there are, in vain."""
    whole = whole_dataset(dataset)
    return whole is not dataset and len(dataset) > len(whole)
