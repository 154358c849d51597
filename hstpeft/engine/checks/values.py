"""Wrong keys and values of a config that a run would ignore, or only fail on late."""

import difflib
import importlib.util
import itertools
import logging
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from mmengine.config import Config

from hstpeft.engine.checks.config import RUNNER_KEYS, find_class
from hstpeft.engine.checks.parts import LOADERS, Part, parts_of
from hstpeft.engine.checks.plain import known_keys, resembling_keys
from hstpeft.engine.checks.ranges import out_of_range
from hstpeft.engine.checks.signature import Argument, Signature, signature
from hstpeft.engine.checks.types import fits, said
from hstpeft.errors import UserError, nearest

_CHOICES = {
    'log_level': tuple(logging.getLevelNamesMapping()),
    'env_cfg.mp_cfg.mp_start_method': ('fork', 'forkserver', 'spawn'),
    'env_cfg.dist_cfg.backend': ('cncl', 'gloo', 'hccl', 'mccl', 'mpi', 'nccl', 'smddp', 'ucc'),
}
_HOSTS = {
    'mmpretrain': 'onedl-mmpretrain',
    'mmseg': 'onedl-mmsegmentation',
    'mmdet': 'onedl-mmdetection',
}
_SAMPLERS = ('sampler', 'batch_sampler')
_KINDS = {
    'auto_scale_lr': dict | None,
    'auto_scale_lr.enable': bool,
    'auto_scale_lr.base_batch_size': int,
    'env_cfg.cudnn_benchmark': bool,
    'env_cfg.dist_cfg': dict,
    'env_cfg.mp_cfg': dict,
    'env_cfg.mp_cfg.opencv_num_threads': int,
    'optim_wrapper.clip_grad': dict | None,
    'optim_wrapper.paramwise_cfg': dict | None,
    **dict.fromkeys(LOADERS, dict | None),
    **{f'{loader}.dataset': dict for loader in LOADERS},
    **{f'{loader}.{part}': dict | None for loader in LOADERS for part in _SAMPLERS},
    'randomness.deterministic': bool,
    'randomness.diff_rank_seed': bool,
    'randomness.seed': int | None,
}
# Another tool builds them, or a run of several processes.
_BUILT_LATER = ('model_wrapper_cfg', 'test_dataloader', 'test_evaluator', 'val_dataloader')
_REGISTRIES = ('registry', 'registry.py')
# Options that a class hands on, so that they are not among its arguments.
_FORWARDED = {'convert_to_iter_based': bool, 'keep_ratio': bool}


def check_values(cfg: Config) -> None:
    """Check keys, kinds and ranges of all values that the runner reads.

    The default scope of the config must be in force.

    Raises:
        UserError: Names the first wrong key, its value, and what it must be.
    """
    for problem in problems_of(cfg.to_dict()):
        raise UserError(f'config: {problem}')


def check_scope(scope: Any) -> None:
    """Raise unless ``default_scope`` is a package with registries."""
    if scope == 'mmengine' or (isinstance(scope, str) and _has_registry(scope)):
        return
    known = (*_HOSTS, 'mmengine', 'hstpeft')
    if scope in _HOSTS:
        raise UserError(
            f'config: default_scope {scope!r} is not installed: pip install {_HOSTS[scope]}'
        )
    raise UserError(
        f'config: default_scope {scope!r} is no installed package with registries: '
        f'{nearest(str(scope), known)}'
    )


def problems_of(cfg: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong in a config, a line each; see `check_values`."""
    for part in parts_of(cfg):
        if not part.key:
            part = part._replace(options={key: cfg[key] for key in RUNNER_KEYS & cfg.keys()})
        at = f'{part.key}.' if part.key else ''
        for name, hint in _unread(part, cfg):
            yield f'{at}{name} {part.options[name]!r} is read by nobody: {hint}'
        found = _unknown(part), _misfits(part), _no_choice(part, at), out_of_range(part)
        for name, value, wanted in itertools.chain(*found):
            yield f'{at}{name} {value!r} must be {wanted}'


def _has_registry(scope: str) -> bool:
    # Only the folder is looked at: searching within a package would import it, whoever wrote it.
    spec = importlib.util.find_spec(scope) if scope.isidentifier() else None
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    return any((folder / name).exists() for folder in folders for name in _REGISTRIES)


def _unread(part: Part, cfg: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    known = known_keys(part, cfg)
    if known is not None:
        yield from ((name, nearest(name, known)) for name in part.options.keys() - known)
        return
    likely = {*resembling_keys(part), *_arguments_if_open(part)}
    for name in part.options.keys() - likely:
        if close := difflib.get_close_matches(name, likely, n=1, cutoff=0.84):
            yield name, f"did you mean '{close[0]}'?"


def _unknown(part: Part) -> Iterator[tuple[str, Any, str]]:
    """Yield a type that nobody knows, of a part that a training does not build."""
    kind = part.options.get('type')
    if part.key.startswith(_BUILT_LATER) and isinstance(kind, str) and find_class(kind) is None:
        yield 'type', kind, 'the name of a registered class'


def _arguments_if_open(part: Part) -> Set[str]:
    """List the arguments of a class that also takes any others."""
    found = None if part.target is None else _signature(part.target)
    return {*found.arguments, 'type', '_scope_'} if found and found.is_open else frozenset()


def _signature(target: Any) -> Signature | None:
    try:
        return signature(target)
    except (TypeError, ValueError):  # a built-in that tells nothing
        return None


def _misfits(part: Part) -> Iterator[tuple[str, Any, str]]:
    """Yield the options that do not fit the annotation of their argument."""
    if part.target is None:
        return
    found = _signature(part.target)
    arguments = found.arguments if found else {}
    is_ours = part.target.__module__.startswith('hstpeft.')
    for name, value in part.options.items():
        if name in arguments and not fits(value, arguments[name], is_ours):
            yield name, value, said(arguments[name])


def _no_choice(part: Part, at: str) -> Iterator[tuple[str, Any, str]]:
    """Yield options of parts without a class that are of another kind or none of their choices."""
    for name, value in part.options.items():
        kind = _KINDS.get(f'{at}{name}', _FORWARDED.get(name))
        if kind is not None and not fits(value, Argument(kind, None), is_ours=True):
            yield name, value, said(Argument(kind, None))
        choices = _CHOICES.get(f'{at}{name}')
        if choices is not None and value not in choices:
            yield name, value, f'one of {", ".join(choices)}'
