"""Which settings may differ in a resumed run, and what is said of each."""

import fnmatch
import json
import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import mmengine
import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.logging import print_log

from hstpeft.engine.promises import PROMISED_HOOKS
from hstpeft.errors import UserError
from hstpeft.version import __version__

REFUSED, WARNED, TAKEN = 'refused', 'warned', 'taken'

RULES = (
    # The first pattern that a dotted key fits decides. docs/resume.md is this table in words.
    ('model.test_cfg', TAKEN),  # only testing reads it
    ('model.*.weights', TAKEN),  # a place; the fingerprint of what lies there is compared
    ('model.*init_cfg', TAKEN),  # what it initialises is in the checkpoint
    ('model.*with_cp', TAKEN),  # less memory, the same numbers
    ('model.*', REFUSED),
    # The checkpoint brings these of its own: others would be ignored, or could not be loaded.
    ('optim_wrapper.optimizer', REFUSED),
    ('optim_wrapper.paramwise_cfg', REFUSED),
    ('optim_wrapper.constructor', REFUSED),
    ('param_scheduler', REFUSED),
    ('auto_scale_lr', REFUSED),
    ('train_cfg.by_epoch', REFUSED),
    ('train_cfg.type', REFUSED),
    ('optim_wrapper', WARNED),  # precision, accumulation, clipping
    ('train_dataloader.num_workers', TAKEN),
    ('train_dataloader.persistent_workers', TAKEN),
    ('train_dataloader.prefetch_factor', TAKEN),
    ('train_dataloader.pin_memory', TAKEN),
    ('train_dataloader', WARNED),
    ('randomness', WARNED),
    ('custom_hooks', WARNED),
    ('model_wrapper_cfg', WARNED),
    ('processes', WARNED),
    ('versions', WARNED),
)
_RECORDED = tuple(dict.fromkeys(pattern.partition('.')[0] for pattern, _ in RULES))


class Change(NamedTuple):
    """A setting that differs from that of the run that saved a checkpoint."""

    key: str
    before: Any
    now: Any
    rule: str

    def __str__(self) -> str:
        return f'{self.key} was {_short(self.before)} and is {_short(self.now)}'


def record(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the checkpoints of a run keep: those that a rule names.

    Args:
        cfg: Config of the run, as the runner has it.

    Returns:
        Plain values, nested as in the config.
    """
    settings = {key: cfg.get(key) for key in _RECORDED if cfg.get(key) is not None}
    scale = settings.pop('auto_scale_lr', None)
    if scale and scale.get('enable'):
        settings['auto_scale_lr'] = scale
    if settings.get('train_cfg', {}).get('type') is not None:
        settings['train_cfg'] = {'by_epoch': None, **settings['train_cfg']}
    hooks = [hook for hook in settings.get('custom_hooks', ()) if isinstance(hook, Mapping)]
    # The promised hooks are there whether a config lists them or not.
    settings['custom_hooks'] = {
        str(hook['type']): hook
        for hook in hooks
        if hook['type'] not in PROMISED_HOOKS or hook.keys() != {'type'}
    } or None
    settings['processes'] = get_world_size()
    settings['versions'] = {
        'python': platform.python_version(),
        'hstpeft': __version__,
        'mmengine': mmengine.__version__,
        'numpy': np.__version__,
        'torch': torch.__version__,
    }
    return json.loads(json.dumps(settings, default=str))


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """List the settings that differ between two records, but for those that may."""
    old, new = dict(_flat(before)), dict(_flat(now))
    found = []
    for key in sorted({*old, *new}):
        rule = _rule(key)
        if rule != TAKEN and old.get(key) != new.get(key):
            found.append(Change(key, old.get(key), new.get(key), rule))
    return found


def check_resume(checkpoint: Mapping[str, Any], cfg: Mapping[str, Any], path: str) -> None:
    """Compare the settings of a run that goes on with those of its checkpoint.

    Args:
        checkpoint: As read.
        cfg: Config of the run that goes on.
        path: Of the checkpoint, for messages.

    Raises:
        UserError: It is no training checkpoint, or a setting differs that the run would ignore.
    """
    if 'optimizer' not in checkpoint:
        raise UserError(
            f'--resume {path}: it holds weights alone, no training to go on with (a delta, or a '
            'best checkpoint): --load-from starts a training from it'
        )
    before = checkpoint.get('meta', {}).get('settings')
    if before is None:
        print_log(
            f'--resume: {path} has no record of its settings, so they are not compared',
            logger='current',
            level=logging.WARNING,
        )
        return
    found = changes(before, record(cfg))
    refused = [change for change in found if change.rule == REFUSED]
    if refused:
        raise UserError(
            f'--resume {path}: {_listed(refused)}. A run goes on with the settings that it began '
            'with: set them back, or start a training from the weights with --load-from'
        )
    for change in found:
        print_log(
            f'--resume: {change}: it is taken, so the result is not that of the unbroken run',
            logger='current',
            level=logging.WARNING,
        )


def keep_seed(checkpoint: Mapping[str, Any], cfg: Any) -> None:
    """Let a run whose config names no seed go on with that of its checkpoint, in place."""
    seed = checkpoint.get('meta', {}).get('seed')
    if seed is not None and cfg.get('randomness', {}).get('seed') is None:
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': seed}


def _rule(key: str) -> str:
    for pattern, rule in RULES:
        if fnmatch.fnmatchcase(key, pattern) or fnmatch.fnmatchcase(key, f'{pattern}.*'):
            return rule
    return TAKEN


def _flat(value: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Give the leaves of nested dicts and lists with dotted keys; an empty one is a leaf."""
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value):
        items = enumerate(value)
    if not items:
        yield prefix, value
    for key, item in items:
        yield from _flat(item, f'{prefix}.{key}' if prefix else str(key))


def _listed(found: Sequence[Change]) -> str:
    shown = '; '.join(map(str, found[:3]))
    return shown + (f'; and {len(found) - 3} more' if len(found) > 3 else '')


def _short(value: Any) -> str:
    return 'not set' if value is None else repr(value)[:80]
