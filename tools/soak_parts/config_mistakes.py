"""Random mistakes in a config: each is wrong for certain, and knows which key it broke."""

import math
import random
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hstpeft.engine.checks.config import COMPOSED, RUNNER_KEYS
from tools.soak_parts.config_tables import (
    LENGTHS,
    OUTSIDE,
    PATHS,
    REQUIRED,
    SKIPPED,
    SWITCHED,
)

REMOVED = '(removed)'
"""Stands for a key that is taken away."""


class Mistake(NamedTuple):
    """A wrong setting.

    Attributes:
        kind: Name of the function that made it.
        key: Dotted key.
        value: What it is set to.
        raw: What is typed instead of ``KEY=VALUE``, if not that.
    """

    kind: str
    key: str
    value: Any
    raw: tuple[str, ...] = ()


def mistakes(config: Mapping[str, Any], rng: random.Random) -> Iterator[Mistake]:
    """Yield random mistakes of a sound config for ever, all kinds in turn.

    Args:
        config: Plain mappings.
        rng: What it draws from.
    """
    leaves = [*_settings(config)]
    while True:
        for make in KINDS:
            found = make(config, leaves, rng)
            if found is not None:
                yield found


def _settings(node: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """Yield keys and values at any depth that a training reads."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node)
    for name, value in items:
        here = f'{key}.{name}' if key else str(name)
        if (not key and name not in RUNNER_KEYS) or here.endswith(SKIPPED) or name in SKIPPED:
            continue
        yield here, value
        if isinstance(value, (Mapping, list, tuple)):
            yield from _settings(value, here)


def _get(config: Any, key: str) -> Any:
    for name in key.split('.'):
        if not isinstance(config, Mapping) or name not in config:
            return REMOVED
        config = config[name]
    return config


def _named(leaves: Sequence, names: Sequence[str]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in leaves if key.rpartition('.')[2] in names]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _misspell(word: str, rng: random.Random) -> str:
    """Drop, double or exchange a letter, of the last part of a dotted word."""
    head, dot, tail = word.rpartition('.')
    place = rng.randrange(len(tail))
    letter = rng.choice(string.ascii_lowercase)
    changed = rng.choice(
        [tail[:place] + tail[place + 1 :], tail[: place + 1] + tail[place:],
         tail[:place] + letter + tail[place + 1 :]]
    )  # fmt: skip
    return word + 'x' if changed in ('', tail) else f'{head}{dot}{changed}'


def misspelt_key(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake | None:
    """Write a key with a slip."""
    key, value = rng.choice([leaf for leaf in leaves if not leaf[0].rpartition('.')[2].isdigit()])
    wrong = _misspell(key, rng)
    if wrong in dict(leaves) or key.endswith('.type'):
        return None
    return Mistake('misspelt_key', wrong, value)


def unknown_type(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake:
    """Write a type with a slip."""
    key, value = rng.choice([(k, v) for k, v in _named(leaves, ['type']) if isinstance(v, str)])
    return Mistake('unknown_type', key, _misspell(value, rng))


def wrong_kind(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake | None:
    """Give a value of another kind."""
    key, value = rng.choice(leaves)
    if isinstance(value, bool):
        return Mistake('wrong_kind', key, rng.choice(['abc', [1, 2]]))
    if _is_number(value):
        return Mistake('wrong_kind', key, rng.choice(['abc', True, {'a': 1}]))
    if isinstance(value, Mapping) and value:
        return Mistake('wrong_kind', key, rng.choice([5, 'abc']))
    if isinstance(value, (list, tuple)) and value and _is_number(value[0]):
        return Mistake('wrong_kind', key, rng.choice(['abc', True]))
    return None


def out_of_range(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake:
    """Give a number that means nothing."""
    key, _ = rng.choice([(k, v) for k, v in _named(leaves, OUTSIDE) if 'init_cfg' not in k])
    return Mistake('out_of_range', key, rng.choice(OUTSIDE[key.rpartition('.')[2]]))


def not_finite(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake:
    """Give NaN or infinity for a number."""
    key, _ = rng.choice(
        [(k, v) for k, v in leaves if _is_number(v) and not k.endswith('norm_type')]
    )
    return Mistake('not_finite', key, rng.choice([math.nan, math.inf, -math.inf]))


def wrong_length(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake | None:
    """Give a list of numbers one more, or one less."""
    lists = [(k, [*v]) for k, v in _named(leaves, LENGTHS) if isinstance(v, (list, tuple))]
    if not lists:
        return None
    key, values = rng.choice(lists)
    return Mistake('wrong_length', key, rng.choice([values[:-1], [*values, values[-1]]]))


def missing_key(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake | None:
    """Leave out what has no default."""
    there = [key for key in REQUIRED if _get(config, key) is not REMOVED]
    return Mistake('missing_key', rng.choice(there), REMOVED)


def wrong_path(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake:
    """Name a file that does not exist."""
    there = [key for key in PATHS if _get(config, key) is not REMOVED]
    return Mistake('wrong_path', rng.choice([*there, 'load_from']), '/nowhere/at/all.json')


def wrong_channels(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake:
    """Give another number of channels than the part before has."""
    key, value = rng.choice([leaf for leaf in leaves if leaf[0].endswith('in_channels')])
    wrong = [v + 8 for v in value] if isinstance(value, (list, tuple)) else value + 8
    return Mistake('wrong_channels', key, wrong)


def contradiction(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake | None:
    """Set what contradicts the rest, or what nobody reads."""
    key, value = rng.choice(SWITCHED)
    return Mistake('contradiction', key, value) if _get(config, key) != value else None


def set_too_late(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake | None:
    """Set a part that the model has been composed from already."""
    key = rng.choice([key for key in COMPOSED if key in config])
    value = config[key]
    return Mistake('set_too_late', key, value + 1 if _is_number(value) else value)


def broken_command(config: Mapping, leaves: Sequence, rng: random.Random) -> Mistake:
    """Type something that is no ``KEY=VALUE``."""
    key, _ = rng.choice(leaves)
    raw = rng.choice(
        [(key, '3'), (key,), ('=3',), (f'{key}=[1,2',), (f'{key}=(1',), (f'{key} =3',)]
    )
    return Mistake('broken_command', key, None, raw)


Kind = Callable[[Mapping, Sequence, random.Random], Mistake | None]
KINDS: tuple[Kind, ...] = (
    misspelt_key, wrong_kind, unknown_type, out_of_range, not_finite, misspelt_key, wrong_length,
    missing_key, wrong_path, wrong_channels, contradiction, set_too_late, wrong_kind,
    broken_command,
)  # fmt: skip
