"""Whether a value of a config fits the annotation of the argument that it is for.

Only plain annotations are judged (numbers, switches, texts, lists and mappings of them, unions and
literals). Foreign classes are judged more leniently: their annotations are for readers, and their own configs
write lists for tuples, 1 for 1.0, and None where the annotation does not mention it.
"""

import collections.abc
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from torch import Tensor

from hstpeft.engine.checks.signature import MISSING, Argument

_SEQUENCES = (list, tuple, set, collections.abc.Sequence, collections.abc.Iterable)
# A number may be a tensor; a text is none.
_PLAIN = {Tensor, bool, int, float, str, type(None), type(Ellipsis)}
_MAPPINGS = (dict, Mapping, collections.abc.MutableMapping)


def fits(value: Any, argument: Argument, is_ours: bool) -> bool:
    """Whether a value may be given for an argument.

    Args:
        value: As the config has it.
        argument: With its annotation and default.
        is_ours: Whether the class is of hstpeft, whose annotations are meant.
    """
    if argument.annotation is not MISSING and _fits(value, argument.annotation):
        return True
    return argument.annotation is MISSING if is_ours else _could_fit(value, argument)


def said(argument: Argument) -> str:
    """Write an annotation out, or the kind of the default, for a message."""
    if argument.annotation is MISSING:
        return f'like its default {argument.default!r}'
    if isinstance(argument.annotation, type) and not get_args(argument.annotation):
        return argument.annotation.__name__
    return str(argument.annotation).replace('typing.', '').replace('collections.abc.', '')


def _fits(value: Any, annotation: Any) -> bool:
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in arguments)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if annotation in (None, type(None)):
        return value is None
    if annotation is bool:
        return isinstance(value, bool)
    if annotation in (int, float):
        kinds = (int, float) if annotation is float else int
        return isinstance(value, kinds) and not isinstance(value, bool)
    if annotation in (str, Tensor):
        return isinstance(value, annotation)
    if origin in _SEQUENCES:
        return isinstance(value, (list, tuple, set)) and _fit_each(value, origin, arguments)
    if origin in _MAPPINGS:
        return isinstance(value, Mapping)
    return True


def _fit_each(values: Any, origin: Any, arguments: tuple) -> bool:
    is_fixed = origin is tuple and len(arguments) > 0 and arguments[-1] is not Ellipsis
    if is_fixed:
        return len(values) == len(arguments) and all(
            _fits(value, kind) for value, kind in zip(values, arguments, strict=True)
        )
    return not arguments or all(_fits(value, arguments[0]) for value in values)


def _could_fit(value: Any, argument: Argument) -> bool:
    """Whether a foreign class may take a value although its annotation does not say so."""
    hint, default = argument
    if value is None or isinstance(value, Mapping):
        return True  # an implicit Optional, or the config of an object
    if isinstance(value, (list, tuple)):  # one per level, or numbers of another kind
        return all(_could_fit(part, argument) for part in value)
    if default is not MISSING and type(value) is type(default):
        return True
    kinds = (
        _kinds(MISSING if default is None else type(default)) if hint is MISSING else _kinds(hint)
    )
    if isinstance(value, (bool, str)):
        return type(value) in kinds or not kinds <= _PLAIN
    # A text says how (loss_scale='dynamic'), and a number may be given instead.
    return not kinds <= {bool, type(None)}


def _kinds(hint: Any) -> set[Any]:
    """Kinds of value that an annotation speaks of, at any depth."""
    if hint is MISSING or hint in (type, type(MISSING)):
        return {object}
    if get_origin(hint) is Literal:
        return {type(choice) for choice in get_args(hint)}
    found = {kind for inner in get_args(hint) for kind in _kinds(inner)}
    return found or {hint}
