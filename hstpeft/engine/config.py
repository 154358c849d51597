"""Loading a config and its overrides."""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings

import hstpeft
from hstpeft.engine.checks.config import COMPOSED, check_override, find_class
from hstpeft.engine.checks.evaluated import check_evaluated
from hstpeft.engine.checks.inheritance import check_inheritance
from hstpeft.engine.checks.safe_config import check_safe_config
from hstpeft.engine.checks.values import check_scope
from hstpeft.engine.safe_io import safe_io
from hstpeft.errors import UserError, nearest

__all__ = [
    'COMPOSED',
    'check_override',
    'config_root',
    'find_class',
    'load_config',
    'with_num_classes',
]


def config_root() -> Path:
    """Return the folder of the shipped configs: that of the clone, or of the installed wheel.

    Raises:
        UserError: There is none.
    """
    package = Path(hstpeft.__file__).parent
    for root in (package.parent / 'configs', package / '.mim' / 'configs'):
        if (root / '_base_').is_dir():
            return root
    raise UserError('the configs of hstpeft were not installed with it: install the wheel anew')


def load_config(
    path: str | Path, overrides: Mapping[str, Any] | None = None, safe: bool = False
) -> Config:
    """Read a config file and merge dotted overrides into it.

    Args:
        path: A ``.py`` config, which is a program; or one in JSON or YAML.
        overrides: ``{'model.backbone.tuner.num_meta_tokens': 2}`` and the like.
        safe: Whether to refuse a file, or a base of it, that does more than set values.

    Raises:
        UserError: The file is missing or broken, or it, a base of it or an override sets what
            would change nothing; the message gives the nearest name or the key that has the
            effect.
    """
    path = Path(path)
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob('*.py')] if path.parent.is_dir() else []
        raise UserError(f'config {path} does not exist: {nearest(path.name, siblings)}')
    if safe:
        check_safe_config(path, config_root())
    try:
        with safe_io():
            cfg = Config.fromfile(path)
    except UserError as error:
        raise UserError(f'config {path}: {error}') from None
    except Exception as error:  # a config is a program: anything can be wrong in it
        raise UserError(f'config {path}: {error}') from error
    check_inheritance(path, cfg)
    scope = (overrides or {}).get('default_scope', cfg.get('default_scope', 'mmpretrain'))
    check_scope(scope)
    init_default_scope(scope)
    with safe_io():  # the checks look types up
        # One by one: a type that is set says which keys may follow.
        for key, value in (overrides or {}).items():
            check_override(cfg, key)
            _override(cfg, key, value)
    check_evaluated(cfg.to_dict())
    return cfg


def with_num_classes(cfg: Config, count: int) -> Config:
    """Copy a config with other heads: for another number of classes.

    Args:
        cfg: Config with a ``model``.
        count: That number; 0 if it is not known, which changes nothing.

    Returns:
        The copy. It has the old numbers where ``model`` names several: what each of them counts is
        known to the heads alone.
    """
    cfg = copy.deepcopy(cfg)
    nodes = [
        node for part, child in cfg.model.items() if part != 'backbone' for node in _counting(child)
    ]
    if count and len({node['num_classes'] for node in nodes}) == 1:
        for node in nodes:
            node['num_classes'] = count
    return cfg


def _counting(node: Any) -> Iterator[dict[str, Any]]:
    """Yield each dict of a nested config that has a ``num_classes``."""
    if isinstance(node, Mapping):
        if 'num_classes' in node:
            yield node
        node = list(node.values())
    for child in node if isinstance(node, (list, tuple)) else ():
        yield from _counting(child)


def _override(cfg: Config, key: str, value: Any) -> None:
    """Set a dotted key, in place; mmengine sets no single number of a list."""
    try:
        cfg.merge_from_dict({key: value})
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f'--cfg-options {key}={value} cannot be set ({error}): set a number or a text of its '
            'own kind, and a list as a whole, [a,b]'
        ) from error
    if key.startswith('custom_imports'):  # mmengine imports what the file names, not more
        try:
            import_modules_from_strings(**cfg.custom_imports)
        except (ImportError, TypeError) as error:
            raise UserError(f'--cfg-options {key}={value}: {error}') from error
