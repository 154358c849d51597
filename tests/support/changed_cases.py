"""Made reference cases that `tools/check_reference.py` shall pass, and changes that it shall notice."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools import check_reference

Change = Callable[[dict[str, Any]], None]
"""Changes the description of a case, in place."""
Write = Callable[..., Path]
"""Writes a case into a folder and returns the path of its description."""
_COMMON = ('mode', 'seed', 'labels')


def check(folder: Path, *options: str) -> int:
    """Check the cases of a folder; returns the exit status."""
    return check_reference.main([str(folder), *options])


def list_cases(others: Mapping[Write, Mapping[str, dict[str, Any]]]) -> list:
    """List writers with options, as parameters with readable names; the first of each is fast."""
    return [
        pytest.param(
            write,
            options,
            marks=[pytest.mark.slow] * (number > 0),
            id=f'{write.__module__.split("_")[1]} {write.__name__}, {name}',
        )
        for write, cases in others.items()
        for number, (name, options) in enumerate(cases.items())
    ]


def write_case(write: Write, folder: Path, options: Mapping[str, Any]) -> Path:
    """Write a case; mode, seed and labels are no options of its method."""
    common = {name: options[name] for name in _COMMON if name in options}
    return write(folder, {k: v for k, v in options.items() if k not in _COMMON}, **common)


def change_number(path: Path, array: str) -> None:
    """Change the largest number of an array of a case by a tenth.

    Args:
        path: Of the description of the case.
        array: Its name.
    """
    path = path.with_suffix('.npz')
    arrays = dict(np.load(path))
    changed = arrays[array].astype(np.float64).reshape(-1)
    changed[np.abs(changed).argmax()] *= 1.1
    arrays[array] = changed.reshape(arrays[array].shape)
    np.savez(path, **arrays)


def change_description(path: Path, change: Change) -> None:
    """Change what a case says of itself."""
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


def argument(name: str, value: object) -> Change:
    """Make a change of one argument."""
    return lambda meta: meta['arguments'].update({name: value})


def training(meta: dict[str, Any]) -> None:
    """Change the mode."""
    meta['mode'] = 'train'


def in_train_mode(name: str, value: object) -> Change:
    """Make a change of one argument, and of the mode."""

    def change(meta: dict[str, Any]) -> None:
        meta['arguments'][name], meta['mode'] = value, 'train'

    return change


def frozen(key: str) -> Change:
    """Make a change that freezes a parameter."""

    def change(meta: dict[str, Any]) -> None:
        entry = next(entry for entry in meta['parameters'] if entry[0] == key)
        entry[2] = False
        meta['trainable_parameters'] -= int(np.prod(entry[1]))

    return change


def without(key: str) -> Change:
    """Make a change that leaves a parameter out."""

    def change(meta: dict[str, Any]) -> None:
        meta['parameters'] = [entry for entry in meta['parameters'] if entry[0] != key]

    return change


def renamed(key: str, other: str) -> Change:
    """Make a change of one key."""

    def change(meta: dict[str, Any]) -> None:
        next(entry for entry in meta['parameters'] if entry[0] == key)[0] = other

    return change
