"""Checkpoints of a run: strict loading, finding the newest, and the delta at the end."""

import logging
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from hstpeft.compat import EXTRA_STATE
from hstpeft.delta import check_state_dict, load_checkpoint, make_delta, save_delta
from hstpeft.delta.identity import check_identity
from hstpeft.delta.state import take_form
from hstpeft.engine.distributed import unwrapped
from hstpeft.engine.resume.signals import INTERRUPTED
from hstpeft.engine.resume.work_dir import NUMBERED
from hstpeft.errors import UserError
from hstpeft.registry import HOOKS

_IDENTITY = f'backbone.{EXTRA_STATE}'
_NECK = 'neck.'


@HOOKS.register_module()
class CheckpointGuardHook(Hook):
    """Refuse a checkpoint that does not fill the whole model, neck and head included.

    mmengine loads with ``strict=False`` and only warns. On resume it also runs the text in
    ``meta['config']`` as a program; that is dropped here.

    Args:
        allow_new_head: Leave the head as it was initialised when its keys or shapes differ: a
            delta is the start of a new task. So it does with a neck of another kind, one that has no
            key in common. What the backbone gives out may then differ too.
    """

    priority = 'VERY_HIGH'

    def __init__(self, allow_new_head: bool = False) -> None:
        self.allow_new_head = allow_new_head

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the checkpoint's keys and shapes with the model's."""
        model = unwrapped(runner.model)
        check_checkpoint(model, checkpoint, self.allow_new_head)
        checkpoint.get('meta', {}).pop('config', None)


def check_checkpoint(model: torch.nn.Module, checkpoint: dict, allow_new_head: bool) -> None:
    """Raise if a checkpoint does not fit a model; drop another head and neck if that is allowed.

    Args:
        model: The host's model.
        checkpoint: Changed in place when its head or neck is dropped.
        allow_new_head: Whether the head may differ, and the neck be of another kind.

    Raises:
        UserError: Trunk, tuner, neck or head are others; names what differs.
    """
    given = checkpoint['state_dict']
    own = model.state_dict()
    # First, since another trunk or tuner explains all the other differences.
    if _IDENTITY in own and _IDENTITY in given:
        check_identity(given[_IDENTITY], own[_IDENTITY], allow_new_form=allow_new_head)
        if allow_new_head:
            take_form(given, own)
    if allow_new_head:
        fresh = _new_parts(own, given)
        for key in fresh & given.keys():
            del given[key]
        own = {key: value for key, value in own.items() if key not in fresh}
    try:
        # The backbone's own hook compares its keys when they are loaded.
        outside = [
            {k: v for k, v in d.items() if not k.startswith('backbone.')} for d in (own, given)
        ]
        check_state_dict(*outside, "the checkpoint's neck or head")
    except UserError as error:
        raise UserError(f'{error}. For a new task pass --allow-new-head') from None


def _new_parts(own: dict[str, torch.Tensor], given: dict[str, torch.Tensor]) -> set[str]:
    """Return the keys of both sides that a new task starts afresh: of another head, another neck."""
    every = {*own, *given}
    neck = {key for key in every if key.startswith(_NECK)}
    head = {key for key in every - neck if not key.startswith('backbone.')}
    fresh = set()
    if any(k not in own or k not in given or own[k].shape != given[k].shape for k in head):
        fresh |= head
    # One that lacks a key or is wider is a mistake; one of another kind shares none.
    if neck and not neck & own.keys() & given.keys():
        fresh |= neck
    for part, keys in (('head', head), ('neck', neck)):
        if keys and keys <= fresh:
            print_log(f'the {part} is new: it keeps its initial values', logger='current')
    return fresh


@HOOKS.register_module()
class DeltaHook(Hook):
    """Write the delta, ``delta.pth`` in the work folder, when training ends.

    It holds the same weights as the last checkpoint's ``state_dict``: with EMAHook the average.
    """

    priority = 'LOWEST'

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Save the delta of the last epoch."""
        model = unwrapped(runner.model)
        if not any(key.endswith(EXTRA_STATE) for key in model.state_dict()):
            runner.logger.info('no delta: the model has no backbone of hstpeft')
            return
        meta = {
            'epoch': runner.epoch,
            'iter': runner.iter,
            'dataset_meta': dict(getattr(runner.train_dataloader.dataset, 'metainfo', {})),
        }
        checkpoint = {'state_dict': model.state_dict(), 'meta': meta}
        # EMAHook puts the averaged weights into it here, as into every checkpoint.
        runner.call_hook('before_save_checkpoint', checkpoint=checkpoint)
        delta = make_delta(checkpoint)
        path = Path(runner.work_dir) / 'delta.pth'
        size = save_delta(delta, path)
        runner.logger.info(f'delta: {path}, {size / 1e6:.2f} MB')


def latest_checkpoint(work_dir: str | Path) -> tuple[Path, dict[str, Any]] | None:
    """Read the newest training checkpoint of a work folder that can be read.

    That of an interruption is newer than all others. A damaged file is skipped with a warning.

    Returns:
        Its path and what it holds, or None if there is no checkpoint at all.

    Raises:
        UserError: There are checkpoints, but none can be read.
    """
    work_dir = Path(work_dir)
    numbered = {p: NUMBERED.fullmatch(p.name) for p in work_dir.glob('*_*.pth')}
    paths = sorted((p for p, match in numbered.items() if match), key=lambda p: int(numbered[p][1]))
    paths += [path for path in [work_dir / INTERRUPTED] if path.exists()]
    for path in reversed(paths):
        try:
            return path, load_checkpoint(path)
        except UserError as error:
            print_log(f'skipped: {error}', logger='current', level=logging.WARNING)
    if paths:
        raise UserError(f'none of the {len(paths)} checkpoints in {work_dir} can be read')
    return None
