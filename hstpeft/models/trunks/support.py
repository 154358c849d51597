"""Which names of timm the trunks run: what tools/trunk_table.py found, as data of the package."""

import json
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name('support.json')


class Support(NamedTuple):
    """What became of a name.

    Attributes:
        arch: timm's name.
        family: The family of timm that it belongs to.
        trunk: Class that runs it; None if it is refused.
        maps: Whether its outputs are maps.
        class_token: Whether it has a class token.
        lacks: Capabilities that its class has and it has not.
        difference: Greatest difference to timm's own outputs, relative to the greatest of them.
        reason: Why it is refused.
        remedy: What to do then.
    """

    arch: str
    family: str
    trunk: str | None = None
    maps: bool = False
    class_token: bool = False
    lacks: tuple[str, ...] = ()
    difference: float | None = None
    reason: str = ''
    remedy: str = ''


def read_support() -> tuple[str, dict[str, Support]]:
    """Read the table: the version of timm that it is about, and its rows by name."""
    table = json.loads(FILE.read_text(encoding='utf-8'))
    rows = [{**row, 'lacks': tuple(row.get('lacks', ()))} for row in table['models']]
    return table['timm'], {row['arch']: Support(**row) for row in rows}
