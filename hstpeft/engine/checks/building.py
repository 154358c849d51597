"""An error before the first step is over is one of the config: a line that names the key."""

import difflib
import linecache
import logging
import re
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from hstpeft.engine.checks.config import find_class
from hstpeft.engine.checks.signature import signature
from hstpeft.errors import UserError

_WORKER = 'Original Traceback (most recent call last)'
# Methods of the runner and the key that each works on, for errors while no part is being built.
_WORKERS = {
    'build_evaluator': 'evaluator',
    'build_log_processor': 'log_processor',
    'build_model': 'model',
    'build_optim_wrapper': 'optim_wrapper',
    'build_param_scheduler': 'param_scheduler',
    'build_test_loop': 'test_cfg',
    'build_train_loop': 'train_cfg',
    'build_val_loop': 'val_cfg',
    'build_visualizer': 'visualizer',
    'register_custom_hooks': 'custom_hooks',
    'register_default_hooks': 'default_hooks',
    'scale_lr': 'auto_scale_lr',
    'set_randomness': 'randomness',
    'setup_env': 'env_cfg',
}


@contextmanager
def one_line_until(
    has_begun: Callable[[], bool], cfg: Config, model: Callable[[], nn.Module | None]
) -> Iterator[None]:
    """Turn any error of a run that has not begun into a `UserError` that names the key.

    Whatever it is, nothing has been trained, and what the user can change is the config. A later error
    keeps its traceback.

    Args:
        has_begun: Whether the first step is over.
        cfg: Config of the run.
        model: Gives the model, once there is one.

    Raises:
        UserError: With key, value, and what the error said.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # registries and constructors raise anything
        if has_begun():
            raise
        if _WORKER in str(error):  # the only traceback from a loader's worker
            print_log(str(error), logger='current', level=logging.ERROR)
        raise UserError(explain(error, cfg, model())) from error


def explain(
    error: Exception, cfg: Config | Mapping[str, Any], model: nn.Module | None = None
) -> str:
    """Describe an error in one line: the key and value that it is about, and its message.

    Args:
        error: With its traceback.
        cfg: Config of the run, or the part that is being built.
        model: Helps to name the module that failed.
    """
    cfg = cfg.to_dict() if isinstance(cfg, Config) else cfg
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    key, value = _built_part(frames, cfg)
    if not key and model is not None:
        key = _module(frames, model)
    if not key:
        key, value = _part_at_work(frames, cfg)
    shown = f'{key} {_short(value)}'.strip() or 'the run cannot start'
    said = ' '.join(str(error).split()) or _source(error)
    if _WORKER in said:
        said = said.rpartition(f'{type(error).__name__}: ')[2]
    hint = _nearest_argument(said, value)
    if isinstance(error, ModuleNotFoundError) and error.name:
        hint = f', pip install {error.name.partition(".")[0]}'
    return (
        f'config: {shown}: {type(error).__name__}: {said}{hint} (HSTPEFT_TRACEBACK=1 shows where)'
    )


def _built_part(frames: list[FrameType], cfg: Mapping[str, Any]) -> tuple[str, Any]:
    """Find the innermost part that was being built: its key and options."""
    key, node = '', cfg
    for frame in frames:
        options, name = frame.f_locals.get('cfg'), frame.f_code.co_name
        if name == 'build_from_cfg' and isinstance(options, Mapping):
            below = _find(node, options)
            if below is not None:
                key = f'{key}.{below[0]}' if key else below[0]
                node = below[1]
        elif not key and name in _WORKERS and _WORKERS[name] in cfg:
            key = _WORKERS[name]
            node = cfg[key]
    return key, node if key else ''


def _find(node: Any, options: Mapping) -> tuple[str, Any] | None:
    """Find the part of a config that is built from these options: the same, or of their type."""
    parts = [*_parts(node)]
    same = [part for part in parts if dict(part[1]) == dict(options)]
    alike = [part for part in parts if part[1].get('type') == options.get('type') is not None]
    return next(iter([*same, *alike]), None)


def _parts(node: Any, key: str = '') -> Iterator[tuple[str, Mapping]]:
    """Yield the mappings below a node, the nearest first."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node)
    inner = [
        (f'{key}.{name}' if key else str(name), value)
        for name, value in items
        if isinstance(value, (Mapping, list, tuple))
    ]
    yield from ((at, value) for at, value in inner if isinstance(value, Mapping))
    for at, value in inner:
        yield from _parts(value, at)


def _module(frames: list[FrameType], model: nn.Module) -> str:
    """Name the innermost module of a model that was running."""
    names = {id(module): name for name, module in model.named_modules()}
    owners = [id(frame.f_locals.get('self')) for frame in frames]
    working = [names[owner] for owner in owners if owner in names]
    return f'model.{working[-1]}'.rstrip('.') if working else ''


def _part_at_work(frames: list[FrameType], cfg: Mapping[str, Any]) -> tuple[str, Any]:
    """Find the part, e.g. a transform, whose object was at work innermost."""
    parts = [(key, node) for key, node in _parts(cfg) if isinstance(node.get('type'), str)]
    for frame in reversed(frames):
        kind = type(frame.f_locals.get('self')).__name__
        for key, node in parts:
            if node['type'].rpartition('.')[2] == kind:
                return key, node
    return '', ''


def _short(value: Any) -> str:
    return textwrap.shorten(str(value), 120, placeholder=' ...')


def _source(error: Exception) -> str:
    """Return the source line that raised an error, for one without a message."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    return linecache.getline(frame.f_code.co_filename, line).strip()


def _nearest_argument(said: str, options: Any) -> str:
    """Return a hint for an argument that a class does not have."""
    found = re.search(r"unexpected keyword argument '(\w+)'", said)
    target = find_class(options.get('type')) if found and isinstance(options, Mapping) else None
    if target is None:
        return ''
    names = signature(target).arguments
    close = difflib.get_close_matches(found.group(1), names, n=1, cutoff=0.6)
    return f", did you mean '{close[0]}'?" if close else f', it takes {", ".join(names)}'
