"""Settings of a config file that would change nothing, without a word.

``_base_.trunk`` is read where it stands: a key that a file sets after the model has been composed from
it is read by nobody. So the files are parsed, and what they set is followed backwards from the keys
that the runner reads, like the live variables of a program.
"""

import ast
import difflib
import os.path
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from hstpeft.engine.checks.config import COMPOSED, RUNNER_KEYS, keys_named, remedy
from hstpeft.engine.checks.liveness import follow, stored_names
from hstpeft.engine.checks.ranges import RANGES
from hstpeft.errors import UserError

# mmengine replaces {{$VARIABLE:default}} before it parses a file.
_VARIABLE = re.compile(r'\{\{[\'"]?\s*\$[^{}]*\}\}')
_MODEL_PARTS = ('trunk', 'tuner', 'neck')


class Setting(NamedTuple):
    """A key that a file sets and nothing reads.

    Attributes:
        file: Where it stands.
        key: Top-level key.
        value: As it is written.
        is_too_late: Whether a base of the file has been composed from the key already.
        is_part: Whether the file leaves the model to others.
    """

    file: Path
    key: str
    value: str
    is_too_late: bool
    is_part: bool


class Chain(NamedTuple):
    """A file with its bases.

    Attributes:
        keys: All keys that they set.
        reads: All names that they read, their own and those of their bases.
        composes: Whether one of them has made a model from the parts among its bases.
        idle: What nothing reads, the file's own settings first.
    """

    keys: Set[str] = frozenset()
    reads: Set[str] = frozenset()
    composes: bool = False
    idle: tuple[Setting, ...] = ()


def check_inheritance(path: Path, cfg: Config) -> None:
    """Refuse what a config file or a base of it sets to no effect.

    Helper variables are free, and so is a part by itself, for others may read what it sets.
    Refused are a key that a base has been composed from already, a part of the model that is named
    and not composed, the name of a setting that stands deeper (``lr``), and a misspelt key of the
    runner.

    Args:
        path: A config. Bases that are no ``.py`` on this disk are not looked into.
        cfg: What mmengine has read from it.

    Raises:
        UserError: Names the file, the key, its value and the remedy.
    """
    if 'model' not in cfg:
        return
    chain = read_chain(path, RUNNER_KEYS)
    for setting in chain.idle:
        key = setting.key
        said = f'config {setting.file}: {key} = {setting.value} would change nothing'
        if setting.is_too_late:
            raise UserError(said + remedy(cfg, key))
        if key in _MODEL_PARTS and setting.is_part and chain.composes:
            place = 'model.neck' if key == 'neck' else f'model.backbone.{key}'
            raise UserError(f'{said}, since {path} does not read it: set {place} to _base_.{key}')
        places = [] if isinstance(cfg.get(key), Mapping) else _places(cfg, key)
        if chain.composes and (places or key in (*RANGES, 'data_root')):
            shown = ' or '.join(places[:3]) or 'it in the part that it is for'
            raise UserError(f'{said}, since nothing reads {key} at top level: set {shown}')
        if close := misspelt(key):
            raise UserError(f"{said}, since nothing reads {key}: did you mean '{close}'?")


def _places(cfg: Config, key: str) -> list[str]:
    """List the keys below those of the runner that end in a name."""
    parts = {name: cfg[name] for name in RUNNER_KEYS & cfg.keys()}
    return sorted(place for place, _ in keys_named(key, parts) if '.' in place)


def misspelt(key: str) -> str | None:
    """Return the runner's key that another key looks like, unless it is one with an affix."""
    close = difflib.get_close_matches(key, sorted(RUNNER_KEYS), n=1, cutoff=0.8)
    if key in RUNNER_KEYS or not close:
        return None
    affixed = key.startswith(f'{close[0]}_') or key.endswith(f'_{close[0]}')
    return None if affixed else close[0]


def read_chain(path: Path, needed: Set[str]) -> Chain:
    """Parse a file and its bases.

    Args:
        path: The file.
        needed: Keys of it that the runner or an inheriting file reads.
    """
    if path.suffix != '.py' or not path.is_file():
        return Chain()
    body = ast.parse(_VARIABLE.sub('0', path.read_text(encoding='utf-8'))).body
    file = follow(body, needed)
    bases = [read_chain(base, {*needed, *file.base_reads}) for base in _bases(body, path.parent)]
    keys = {key for base in bases for key in base.keys}
    reads = {name for base in bases for name in base.reads}
    composes = any(base.composes for base in bases)
    own = [
        Setting(
            path, key, value,
            is_too_late=key in (keys & reads) or (composes and key in COMPOSED),
            is_part='model' not in file.keys,
        )
        for key, value in file.idle
    ]  # fmt: skip
    return Chain(
        keys | file.keys,
        reads | file.reads | file.base_reads,
        composes or ('model' in file.keys and not file.base_reads.isdisjoint(COMPOSED)),
        (*own, *(setting for base in bases for setting in base.idle)),
    )


def _bases(body: Sequence[ast.stmt], folder: Path) -> list[Path]:
    """Find the base files of a file; none where the list is computed."""
    for statement in body:
        if isinstance(statement, ast.Assign) and '_base_' in stored_names(statement):
            try:
                names = ast.literal_eval(statement.value)
            except ValueError:
                return []
            names = [names] if isinstance(names, str) else names
            return [Path(os.path.normpath(folder / name)) for name in names]
    return []
