"""Compare the trunks with timm, name by name: which models run, and are they what timm computes?

    python tools/trunk_table.py                      # all names: writes the table and its page
    python tools/trunk_table.py --names '*dinov3*'   # some, printed alone
    python tools/trunk_table.py --page               # the page alone, from the table that there is

Every name of timm's families ViT, Eva and Swin is built, shrunken but for what is special about it
(two blocks, width 32; patch size, windows, norms, MLP, pooling, tokens stay), with random weights that
are trivial nowhere. Each block's or stage's output, the final norm's and the pooled one must equal
timm's own to 1e-5 of the greatest value (attention pooling too, if it is kept), on the native grid and
on another that is not square. What a trunk refuses is counted with its reason, related families too.

The table is hstpeft/models/trunks/support.json, which `hstpeft.apis.list_trunks` reads; the page is
docs/trunks.md. Nothing is written if a difference is too great; the exit status is then 1. All takes
about 15 seconds.
"""

import argparse
import fnmatch
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import timm
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hstpeft.delta.writing import write_file
from hstpeft.errors import UserError, one_line_errors
from hstpeft.models.trunks.support import FILE, Support, read_support
from tools.trunk_table_parts.compare import LIMIT, compare, family_names
from tools.trunk_table_parts.page import PAGE, render


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Compare the trunks with timm, name by name.')
    parser.add_argument('--names', metavar='PATTERN', help='compare these alone, write nothing')
    parser.add_argument('--page', action='store_true', help='write docs/trunks.md alone')
    return parser.parse_args(arguments)


def encode(table: dict[str, Support]) -> str:
    """Write the table as JSON, a name a line; what says nothing is left out."""
    lines = [
        json.dumps(
            {key: value for key, value in row._asdict().items() if value not in (None, '', ())}
        )
        for row in (_rounded(table[arch]) for arch in sorted(table))
    ]
    models = ',\n'.join(lines)
    return f'{{"timm": "{timm.__version__}", "models": [\n{models}\n]}}\n'


def _rounded(row: Support) -> Support:
    """Keep one digit of the difference: the others are the processor's."""
    return (
        row if row.difference is None else row._replace(difference=float(f'{row.difference:.0e}'))
    )


def write_page() -> None:
    """Write docs/trunks.md from the table that there is.

    Raises:
        UserError: This is no checkout.
    """
    if not PAGE.is_file():
        raise UserError(f'{PAGE} is not there: run this in a checkout of the project')
    write_file(PAGE, render(PAGE.read_text(encoding='utf-8'), *read_support()))


def show(table: dict[str, Support], console: Console) -> None:
    """Print a row for each name."""
    shown = Table('name', 'trunk', 'difference', 'reason')
    for row in table.values():
        difference = '' if row.difference is None else f'{row.difference:.0e}'
        shown.add_row(row.arch, row.trunk or 'refused', difference, row.reason)
    console.print(shown)


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    options, console = parse_options(arguments), Console(stderr=True)
    if options.page:
        write_page()
        return 0
    names = family_names()
    chosen = fnmatch.filter(names, options.names or '*')
    if not chosen:
        raise UserError(f'--names {options.names!r} fits no name of these families of timm')
    steps = track(chosen, 'names', console=console, transient=True)
    table = {arch: compare(arch, names[arch]) for arch in steps}
    wrong = {a: row for a, row in table.items() if row.trunk and not row.difference <= LIMIT}
    if options.names or wrong:
        show(wrong or table, Console())
    elif not wrong:
        write_file(FILE, encode(table))
        write_page()
    runs = sum(row.trunk is not None for row in table.values())
    print(f'{runs} names run, {len(table) - runs} are refused, {len(wrong)} differ from timm')
    return 1 if wrong else 0


if __name__ == '__main__':
    with one_line_errors('trunk_table.py'):
        sys.exit(main())
