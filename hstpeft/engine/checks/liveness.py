"""Which settings of a config file something reads, as of the live variables of a program."""

import ast
import re
import textwrap
from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple

# Names that are bound in here are none of the file's.
_SCOPES = (
    ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp,
    ast.GeneratorExp,
)  # fmt: skip
_EVERY_KEY = '*'


class FileUse(NamedTuple):
    """What one file does, given the keys that are needed of it; `idle` holds (key, value)."""

    keys: set[str]
    reads: set[str]
    base_reads: set[str]
    idle: list[tuple[str, str]]


def follow(body: Sequence[ast.stmt], needed: Set[str]) -> FileUse:
    """Go backwards through a file, from the keys that are needed to what they are made from."""
    live, deleted, file = set(needed), set(), FileUse(set(), set(), set(), [])
    for statement in reversed(body):
        stored = stored_names(statement) - {'_base_'}
        names, base_keys = _loaded(statement)
        if isinstance(statement, ast.Delete):
            deleted |= names
            continue
        file.keys.update(stored - deleted)
        if _EVERY_KEY not in needed:
            idle = stored - live - deleted - names
            file.idle.extend((key, _written(statement, key)) for key in sorted(idle))
            if isinstance(statement, ast.Assign) and stored and stored.isdisjoint(live):
                continue
        live |= names
        file.reads.update(names)
        file.base_reads.update(base_keys)
    return file


def stored_names(node: ast.AST) -> set[str]:
    """Names that a statement sets in the file."""
    if isinstance(node, _SCOPES):
        return set()
    if isinstance(node, ast.Name):
        return {node.id} if isinstance(node.ctx, ast.Store) else set()
    return {name for child in ast.iter_child_nodes(node) for name in stored_names(child)}


def _loaded(node: ast.AST) -> tuple[set[str], set[str]]:
    """Names that a statement reads or deletes, and keys that it reads of ``_base_``."""
    names = [
        part.id
        for part in ast.walk(node)
        if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Store)
    ]
    keys = [key for part in ast.walk(node) for key in _base_keys(part)]
    return set(names) - {'_base_'}, set(keys)


def _base_keys(node: ast.AST) -> Iterator[str]:
    """Yield the keys that ``_base_.key``, ``_base_['key']`` or ``'{{_base_.key}}'`` read."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from re.findall(r'\{\{\s*_base_\.(\w+)', node.value)
    elif isinstance(node, (ast.Attribute, ast.Subscript)) and _is_base(node.value):
        key = node.attr if isinstance(node, ast.Attribute) else getattr(node.slice, 'value', None)
        yield _EVERY_KEY if key is None or hasattr(dict, key) else key
    elif any(map(_is_base, ast.iter_child_nodes(node))):
        yield _EVERY_KEY


def _is_base(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == '_base_' and isinstance(node.ctx, ast.Load)


def _written(statement: ast.stmt, key: str) -> str:
    """Return what a statement sets a name to, as it is written."""
    values = [
        part.value
        for part in ast.walk(statement)
        if isinstance(part, (ast.Assign, ast.AnnAssign, ast.AugAssign))
        and key in stored_names(part)
    ]
    text = ast.unparse(values[0]) if values and values[0] else '...'
    return textwrap.shorten(text, 80, placeholder=' ...')
