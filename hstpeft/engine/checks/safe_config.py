"""`--safe-config`: a stranger's config may set values and do nothing else.

This is decided on the text of the file and of all its bases, before mmengine runs a line.
"""

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hstpeft.engine.checks.safe_syntax import Refused, check_syntax
from hstpeft.errors import UserError

SHIPPED_PROGRAMS = (
    '_base_/datasets/vtab-1k.py',
    '_base_/datasets/custom_detection.py',
    '_base_/datasets/custom_segmentation.py',
)
"""Bases of ours that look at the user's data; trusted like the rest of hstpeft."""
# What mmengine replaces in the text before it parses it. A default becomes text of the file, and only
# variables that say where data lie, and which, may be read from the environment.
_PLACEHOLDER = re.compile(
    r'\{\{ ?(?:file(?:Dirname|Basename|BasenameNoExtension|Extname)|\$\w+_(?:ROOT|TASK|SIZE|WEIGHTS):[\w./-]*) ?\}\}'
)
_PLAIN_PATH = re.compile(r'[^\'"\\{}$\n\r]*')
_READERS: dict[str, Callable[[str], Any]] = {
    '.json': json.loads, '.yaml': yaml.safe_load, '.yml': yaml.safe_load,
}  # fmt: skip


def check_safe_config(path: str | Path, shipped: Path | None = None) -> None:
    """Refuse a config if it, or a base of it, does more than set values.

    Args:
        path: A ``.py``, ``.json`` or ``.yaml`` config.
        shipped: The folder of our own configs, whose `SHIPPED_PROGRAMS` may be bases.

    Raises:
        UserError: Names the file, the line and what is refused.
    """
    trusted = {(shipped / name).resolve() for name in SHIPPED_PROGRAMS} if shipped else set()
    _check(Path(path).resolve(), trusted, ())


def _check(path: Path, trusted: set[Path], above: tuple[Path, ...]) -> None:
    if path in trusted:
        return
    if path in above:
        raise UserError(f'--safe-config: {path} is a base of itself')
    if not path.is_file():
        raise UserError(f'--safe-config: {path} does not exist')
    try:
        text = path.read_text(encoding='utf-8')
        _check_placeholders(path, text)
        if path.suffix == '.py':
            bases = check_syntax(ast.parse(text))
        else:
            bases = _check_data(path, text)
    except Refused as refusal:
        raise UserError(f'--safe-config: {path}:{refusal.line}: {refusal}') from None
    except (SyntaxError, ValueError, RecursionError, MemoryError, yaml.YAMLError) as error:
        reason = ' '.join(str(error).split())
        raise UserError(f'--safe-config: {path}: {reason}') from error
    for base in bases:
        if '::' in base or '://' in base:
            raise UserError(f'--safe-config: {path}: the base {base!r} is no file beside it')
        _check((path.parent / base).resolve(), trusted, (*above, path))


def _check_placeholders(path: Path, text: str) -> None:
    """Raise unless what mmengine replaces in the text can only become a part of a string."""
    for number, line in enumerate(_PLACEHOLDER.sub('', text).splitlines(), 1):
        if '{{' in line:
            raise Refused(
                number,
                'of {{...}} only {{ fileDirname }} and variables for data, {{$NAME_ROOT:default}}, '
                'are allowed',
            )
    if 'file' in ''.join(_PLACEHOLDER.findall(text)) and not _PLAIN_PATH.fullmatch(str(path)):
        raise Refused(0, 'the path of the file has a quote, a brace or a backslash in it')


def _check_data(path: Path, text: str) -> Sequence[str]:
    """Check a JSON or YAML config; returns its bases."""
    if path.suffix not in _READERS:
        raise Refused(0, f'{path.suffix} is no type of a config')
    cfg = _READERS[path.suffix](text)
    if not isinstance(cfg, Mapping):
        raise Refused(0, 'a config is a mapping')
    if cfg.get('custom_imports'):
        raise Refused(0, 'custom_imports runs the modules that it names')
    bases = cfg.get('_base_', [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise Refused(0, '_base_ is a path or a list of paths')
    return bases
