"""Which cases of a table belong to the fast tier."""

from collections.abc import Iterable

import pytest


def first_fast(names: Iterable[str]) -> list:
    """List names of cases as parameters; the first stands for all in the fast tier."""
    return [
        pytest.param(name, marks=[pytest.mark.slow] * (number > 0))
        for number, name in enumerate(names)
    ]
