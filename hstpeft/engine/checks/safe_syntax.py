"""The part of Python that only sets values."""

import ast
import builtins
from collections.abc import Sequence
from typing import NoReturn

from hstpeft.errors import UserError

_CALLS = {'dict', 'list', 'tuple', 'range', 'len', 'int'}
_METHODS = {'get', 'join'}
_BASE = '_base_'
_FORBIDDEN = {'custom_imports': 'custom_imports runs the modules that it names'}
# Only their parts need a check. Powers and shifts are left out: they can fill the memory at once.
_PLAIN = (
    ast.Module, ast.Expr, ast.Assign, ast.Delete, ast.If, ast.Constant, ast.List, ast.Tuple, ast.Set,
    ast.Dict, ast.keyword, ast.Starred, ast.Subscript, ast.Slice, ast.JoinedStr, ast.UnaryOp,
    ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.ListComp, ast.GeneratorExp, ast.comprehension,
    ast.Load, ast.Store, ast.Del, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod,
    ast.USub, ast.UAdd, ast.Not, ast.And, ast.Or, ast.cmpop,
)  # fmt: skip


class Refused(UserError):
    """A stranger's config does what it may not.

    Attributes:
        line: Where; 0 if in no single line.
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def check_syntax(tree: ast.Module) -> Sequence[str]:
    """Check that a parsed config only sets values.

    Returns:
        The paths of its bases.

    Raises:
        Refused: Names the line and the reason.
    """
    own = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    # Above the line that sets it, a name like `exec` would still be Python's own.
    for name in sorted(own & set(dir(builtins))):
        raise Refused(0, f'{name} must stay what it is in Python')
    for name in own & _FORBIDDEN.keys():
        raise Refused(0, _FORBIDDEN[name])
    called: set[int] = set()
    for node in ast.walk(tree):  # a call comes before the name that it calls
        _check_node(node, own | {_BASE}, called)
    return _bases(tree)


def _check_node(node: ast.AST, known: set[str], called: set[int]) -> None:
    """Check one node; `called` takes the ids of names and methods that a call has allowed."""
    if isinstance(node, ast.Raise):
        _check_raise(node, called)
    elif isinstance(node, ast.Call):
        if id(node) not in called:
            _check_call(node)
        called.add(id(node.func))
    elif isinstance(node, ast.Attribute):
        if id(node) not in called:
            _check_attribute(node)
    elif isinstance(node, ast.Name):
        if node.id.startswith('_') and node.id not in (_BASE, '_'):
            _refuse(node, f'the name {node.id}')
        if node.id not in known and id(node) not in called:
            _refuse(node, f'the name {node.id}, which the file does not set')
    elif isinstance(node, ast.FormattedValue):
        if node.conversion != -1 or node.format_spec is not None:
            _refuse(node, 'a format')
    elif not isinstance(node, _PLAIN):
        _refuse(node, f'{type(node).__name__}')


def _check_call(node: ast.Call) -> None:
    function = node.func
    is_plain = isinstance(function, ast.Name) and function.id in _CALLS
    is_method = isinstance(function, ast.Attribute) and function.attr in _METHODS
    if not is_plain and not is_method:
        _refuse(node, f'the call of {ast.unparse(function)[:80]}')


def _check_attribute(node: ast.Attribute) -> None:
    """Allow reading from the bases, `_base_.model.neck`, under another name too."""
    if node.attr.startswith('_') or not isinstance(node.ctx, ast.Load):
        _refuse(node, f'the attribute {node.attr}')
    value: ast.AST = node.value
    while isinstance(value, (ast.Attribute, ast.Subscript)):
        value = value.value
    if not isinstance(value, ast.Name):  # which is checked by itself
        _refuse(node, f'the attribute {node.attr} of a value')


def _check_raise(node: ast.Raise, called: set[int]) -> None:
    error = node.exc
    is_plain = isinstance(error, ast.Call) and ast.unparse(error.func) == 'ValueError'
    if not is_plain or node.cause is not None:
        _refuse(node, 'an error other than ValueError')
    called |= {id(error), id(error.func)}


def _bases(tree: ast.Module) -> Sequence[str]:
    """Read `_base_` where mmengine looks for it; refuse where it might find another one."""
    stored = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id == _BASE and not isinstance(node.ctx, ast.Load)
    ]
    if not stored:
        return []
    assigned = [
        statement
        for statement in tree.body
        if isinstance(statement, ast.Assign) and statement.targets == [stored[0]]
    ]
    if len(stored) > 1 or not assigned:
        _refuse(stored[-1], f'{_BASE} anywhere but in one line of its own')
    try:
        bases = ast.literal_eval(assigned[0].value)
    except ValueError:
        _refuse(assigned[0], f'a computed {_BASE}')
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, (list, tuple)) or not all(isinstance(base, str) for base in bases):
        _refuse(assigned[0], f'a {_BASE} that is no list of paths')
    return bases


def _refuse(node: ast.AST, what: str) -> NoReturn:
    raise Refused(
        getattr(node, 'lineno', 0), f'{what} is not allowed in a config that is not trusted'
    )
