"""What a run writes: sealed, whole or not at all, and old files are removed only afterwards."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, get_file_backend, register_backend
from mmengine.fileio.io import backend_instances
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner
from mmengine.runner import save_checkpoint as mmengine_save
from yapf.yapflib import yapf_api

from hstpeft.delta.digest import seal
from hstpeft.delta.writing import check_writable, write_file
from hstpeft.registry import HOOKS

# Where mmengine's `Runner` looks up the function that saves.
runner_module = importlib.import_module('mmengine.runner.runner')
_PLAIN = (CheckpointHook, 'CheckpointHook', 'mmengine.CheckpointHook')


@HOOKS.register_module()
class SealHook(Hook):
    """Put the hash of a checkpoint's contents into it; `load_checkpoint` compares them.

    `with_promised` places it after all hooks that change the contents.
    """

    priority = 'LOWEST'

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Seal what is about to be written."""
        seal(checkpoint)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's hook, but there is a whole checkpoint to go on from at every moment.

    mmengine deletes the oldest checkpoint, or the best so far, before it writes the next one, and
    writes ``last_checkpoint`` in place. Here the new files come first. Takes the arguments of
    `CheckpointHook`.
    """

    def before_train(self, runner: Runner) -> None:
        """Find the folder.

        Raises:
            UserError: It cannot be written.
        """
        super().before_train(runner)
        if is_main_process() and isinstance(self.file_backend, LocalBackend):
            check_writable(self.out_dir, 'the folder of checkpoints')
        self.file_backend = _Postponed(self.file_backend)

    def after_train_epoch(self, runner: Runner) -> None:
        """Save where the interval says so."""
        with atomic_writes():
            super().after_train_epoch(_Aside(runner))
        self.tidy(runner)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Save where the interval says so."""
        if self.by_epoch:
            return
        with atomic_writes():
            super().after_train_iter(_Aside(runner), *args, **kwargs)
        self.tidy(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Save if the model is the best so far."""
        with atomic_writes():
            super().after_val_epoch(_Aside(runner), metrics)
        self.tidy(runner)

    def tidy(self, runner: Runner) -> None:
        """Name the newest checkpoint and delete what it replaces, if one was written."""
        written = Path(runner.log_dir, 'last_checkpoint')
        if not is_main_process():
            self.file_backend.removed.clear()
            return
        if written.exists():
            write_file(Path(runner.work_dir, 'last_checkpoint'), written.read_text())
            written.unlink()
        best = getattr(self, 'best_ckpt_path_dict', {'': getattr(self, 'best_ckpt_path', None)})
        self.file_backend.remove_now({self.last_ckpt, *best.values()}, runner.logger.warning)


def make_safe(hook: Any) -> Any:
    """Return a hook, with `SafeCheckpointHook` in place of the config of mmengine's own."""
    plain = isinstance(hook, Mapping) and hook.get('type') in _PLAIN
    return {**hook, 'type': 'hstpeft.SafeCheckpointHook'} if plain else hook


class AtomicBackend(LocalBackend):
    """mmengine's access to local files, whose writes leave the old file or the whole new one."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes."""
        write_file(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text."""
        write_file(filepath, obj.encode(encoding))


def save_checkpoint(
    checkpoint: dict[str, Any],
    filename: str,
    file_client_args: dict | None = None,
    backend_args: dict | None = None,
) -> None:
    """Save as mmengine's function of this name does; local files are streamed to the disk.

    mmengine makes two copies in memory first; the time that is saved pays for the hash.

    Args:
        checkpoint: What to save.
        filename: Path, or the address of a remote storage.
        file_client_args: Options of mmengine's deprecated storages.
        backend_args: Options of its storages.
    """
    if file_client_args or backend_args or '://' in str(filename):
        mmengine_save(checkpoint, filename, file_client_args, backend_args)
    else:
        write_file(filename, lambda file: torch.save(checkpoint, file))


@contextmanager
def atomic_writes() -> Iterator[None]:
    """Let mmengine write local files atomically for as long as this is entered."""
    before, instances = type(get_file_backend('.')), dict(backend_instances)
    register_backend('local', AtomicBackend, force=True, prefixes='')
    backend_instances.clear()  # `mmengine.dump` and the like keep what they have made
    save, runner_module.save_checkpoint = runner_module.save_checkpoint, save_checkpoint
    try:
        yield
    finally:
        runner_module.save_checkpoint = save
        register_backend('local', before, force=True, prefixes='')
        backend_instances.clear()
        backend_instances.update(instances)


@contextmanager
def layout_remembered() -> Iterator[None]:
    """Let the text of a config be laid out once.

    mmengine lays it out again for every checkpoint, which takes as long as writing a small one.
    """
    lay_out, known = yapf_api.FormatCode, {}

    def remembered(text: str, **options: Any) -> tuple[str, bool]:
        key = text, repr(options)
        if key not in known:
            known[key] = lay_out(text, **options)
        return known[key]

    yapf_api.FormatCode = remembered
    try:
        yield
    finally:
        yapf_api.FormatCode = lay_out


class _Postponed:
    """A storage that removes files only when what replaces them is there.

    Args:
        storage: A file backend of mmengine.
    """

    def __init__(self, storage: Any) -> None:
        self.storage = storage
        self.removed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)

    def remove(self, path: str) -> None:
        """Remember a file to be removed by `remove_now`."""
        self.removed.append(path)

    rmtree = remove

    def remove_now(self, kept: set[str | None], warn: Callable[[str], None]) -> None:
        """Remove what was remembered; a failure is a warning.

        Args:
            kept: Paths that have been written anew and stay.
            warn: Logs a warning.
        """
        paths, self.removed = self.removed, []
        for path in paths:
            if path in kept:
                continue
            remove = self.storage.rmtree if self.storage.isdir(path) else self.storage.remove
            try:
                remove(path)
            except OSError as error:
                warn(f'{path} is no longer needed, but cannot be removed: {error.strerror}')


class _Aside:
    """A runner whose ``work_dir`` is its log folder.

    mmengine's hook writes ``last_checkpoint`` in place. So it writes it in the log folder, and
    `SafeCheckpointHook` puts it where it belongs, atomically.

    Args:
        runner: The runner itself.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.work_dir = runner.log_dir

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)
