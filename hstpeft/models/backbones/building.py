"""Building trunk and tuners of a backbone from their configs."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from hstpeft.errors import UserError, nearest
from hstpeft.models.trunks import Trunk
from hstpeft.models.tuners import CombinedTuner, Tuner
from hstpeft.registry import MODELS

_NAMED = inspect.Parameter.POSITIONAL_OR_KEYWORD


def build_trunk(cfg: Mapping[str, Any]) -> Trunk:
    """Build a trunk.

    Args:
        cfg: ``type`` and options.

    Raises:
        UserError: The type or an option is missing, misspelt or wrong; gives the nearest name.
    """
    return _build('trunk', cfg, Trunk)


def build_tuner(cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Tuner:
    """Build a tuner, or several in one.

    Args:
        cfg: ``type`` and options, or a list of such; a list of one is that one.

    Raises:
        UserError: As of `build_trunk`; or the list is empty, or its tuners do not go together.
    """
    if not isinstance(cfg, (list, tuple)):
        return _build('tuner', cfg, Tuner)
    if not cfg:
        raise UserError(
            "backbone.tuner [] is empty: for no tuner at all use dict(type='hstpeft.FrozenTuner')"
        )
    parts = [_build(f'tuner.{index}', part, Tuner) for index, part in enumerate(cfg)]
    return parts[0] if len(parts) == 1 else CombinedTuner(parts)


def _build(key: str, cfg: Any, base: type) -> Any:
    """Build one; ``key`` is that of its config below the backbone's."""
    part = key.partition('.')[0]
    if not isinstance(cfg, dict):
        raise UserError(f"backbone.{key} {cfg!r} must be a config: dict(type='hstpeft...', ...)")
    given = cfg.get('type')
    ours = [f'hstpeft.{name}' for name, kind in MODELS.module_dict.items() if _fits(kind, base)]
    if given is None:
        raise UserError(f"backbone.{key} has no type: add type='hstpeft...', {nearest('', ours)}")
    kind = MODELS.get(given) if isinstance(given, str) else given
    if kind is None:
        raise UserError(f'backbone.{key} type {given!r} is unknown: {nearest(given, ours)}')
    if not _fits(kind, base):
        raise UserError(f'backbone.{key} type {given!r} is no {part}: {nearest("", ours)}')
    options = {name: value for name, value in cfg.items() if name not in ('type', '_scope_')}
    _check_options(key, kind, options)
    return _call(key, kind, options)


def _check_options(key: str, kind: type, options: Mapping[str, Any]) -> None:
    """Compare the names of options with the constructor's."""
    # A class without a constructor only seems to take any.
    has_own = kind.__init__ is not nn.Module.__init__
    known = inspect.signature(kind).parameters if has_own else {}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())  # it checks them itself
    for name in options:
        if name not in known and not takes_any:
            hint = nearest(name, known) if known else f'{kind.__name__} has none; leave it out'
            raise UserError(f'backbone.{key} has no option {name!r}: {hint}')
    needed = [p.name for p in known.values() if p.default is p.empty and p.kind is _NAMED]
    for name in needed:
        if name not in options:
            raise UserError(f'backbone.{key} {kind.__name__} needs {name}: add {name}=...')


def _call(key: str, kind: type, options: Mapping[str, Any]) -> Any:
    """Call a class; of several tuners an error names the one that it is about."""
    try:
        return kind(**options)
    except UserError as error:
        if '.' not in key:
            raise
        raise UserError(f'backbone.{key} {kind.__name__}: {error}') from error


def _fits(kind: Any, base: type) -> bool:
    return inspect.isclass(kind) and issubclass(kind, base)
