"""What a registered class or function takes: names, annotations and defaults, through its bases."""

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_type_hints

MISSING = inspect.Parameter.empty


class Argument(NamedTuple):
    """One argument; without annotation or default it has `MISSING`."""

    annotation: Any
    default: Any


class Signature(NamedTuple):
    """What something takes.

    Attributes:
        arguments: By name.
        is_open: Whether it may take others too: it uses its ``**kwargs`` itself.
    """

    arguments: Mapping[str, Argument]
    is_open: bool


@functools.cache
def signature(target: Any) -> Signature:
    """Read what a class takes; its ``**kwargs`` are followed to the bases that get them.

    Args:
        target: A class or a function.
    """
    found: dict[str, Argument] = {}
    is_open = False
    for function in _constructors(target):
        hints = _hints(function)
        parameters = inspect.signature(function).parameters.values()
        rest = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
        for p in parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != 'self':
                found.setdefault(p.name, Argument(hints.get(p.name, MISSING), p.default))
        if not rest:
            return Signature(found, is_open)
        is_open = is_open or not _only_forwards(function, rest[0])
    return Signature(found, is_open=True)


def _constructors(target: Any) -> Iterator[Any]:
    if not inspect.isclass(target):
        yield target
        return
    for kind in target.__mro__:
        if kind is not object and '__init__' in vars(kind):
            yield vars(kind)['__init__']


def _hints(function: Any) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except (AttributeError, NameError, TypeError):  # names that only a type checker imports
        hints = getattr(function, '__annotations__', {})
        return {name: hint for name, hint in hints.items() if not isinstance(hint, str)}


def _only_forwards(function: Any, name: str) -> bool:
    """Whether a constructor hands its ``**kwargs`` to that of its base, and to nothing else."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError, TypeError):  # no source: a built-in
        return False
    uses = sum(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))
    forwards = sum(
        isinstance(keyword.value, ast.Name) and keyword.value.id == name
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith('super(')
        for keyword in node.keywords
        if keyword.arg is None
    )
    return uses == forwards > 0
