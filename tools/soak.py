"""Interrupt trainings, damage files and misspell configs at random, and see that nothing is lost.

    python tools/soak.py [--kills 200] [--corruptions 1000] [--configs 500] [--seed N] [--out FILE.json]

kills        A toy training is interrupted up to three times, by any signal and anywhere, within its
             writes too, and resumed: it must end with the very weights of the undisturbed one.
corruptions  A delta is damaged, as .pth and as .safetensors (so many of each): it must be refused in
             one line, or be read as what it was.
configs      A config of one of the three tasks is made wrong: one line must say so before training.

A part with 0 is left out. The seed decides all trials but for the moments that the clock decides. The
exit status is 1 if a trial failed; its files are then in the work folder, and the JSON tells what happened.
"""

import argparse
import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mmengine
import mmpretrain
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from hstpeft.errors import UserError, one_line_errors
from hstpeft.version import __version__
from tools.measure import commit, processor
from tools.soak_parts import Advance

DEFAULTS = dict(kills=200, corruptions=1000, configs=500)
FILES_PER_CORRUPTION = 2  # a .pth and a .safetensors


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Random kills, damaged files and wrong configs.')
    for part, count in DEFAULTS.items():
        parser.add_argument(f'--{part}', type=int, default=count, metavar='N', help='trials')
    parser.add_argument('--seed', type=int, default=0, help='decides what is tried')
    parser.add_argument('--out', type=Path, help='JSON summary; default: in the work folder')
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='new folder for trainings and files; default: work_dirs/soak/ and the time',
    )
    options = parser.parse_args(arguments)
    if options.work_dir is None:
        options.work_dir = Path('work_dirs/soak', time.strftime('%Y%m%d_%H%M%S'))
    return options


def soak(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run all parts; returns the summary.

    Raises:
        UserError: The work folder is not empty, or the toy training fails undisturbed.
    """
    counts = {part: getattr(options, part) for part in DEFAULTS if getattr(options, part)}
    folder = options.work_dir.resolve()
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f'--work-dir {folder} is not empty')
    folder.mkdir(parents=True, exist_ok=True)
    # What the trainings are forked from must not have started threads of its own.
    os.environ['OMP_NUM_THREADS'] = '1'
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn())
    begin, parts = time.time(), {}
    # A thread that redraws would be copied into what the configs' part forks.
    with Progress(*columns, TimeRemainingColumn(), console=console, auto_refresh=False) as progress:
        for part, count in counts.items():
            total = count * FILES_PER_CORRUPTION if part == 'corruptions' else count
            bar = progress.add_task(part, total=total)
            start = time.time()

            def advance(failure: dict | None, part: str = part, bar: TaskID = bar) -> None:
                progress.update(bar, advance=1, refresh=True)
                if failure is not None:  # at once: a long soak may itself be cut short
                    told = f'{part} failed: {json.dumps(failure)}'
                    progress.console.print(told, highlight=False, markup=False)

            result = run_part(part, count, options.seed, folder, advance)
            progress.update(bar, completed=total, refresh=True)
            parts[part] = dict(result, seconds=round(time.time() - start))
    return dict(
        seed=options.seed,
        date=time.strftime('%Y-%m-%d'),
        commit=commit(),
        processor=processor(),
        versions=dict(
            hstpeft=__version__,
            python=platform.python_version(),
            torch=torch.__version__,
            mmengine=mmengine.__version__,
            mmpretrain=mmpretrain.__version__,
        ),
        seconds=round(time.time() - begin),
        parts=parts,
    )


def run_part(part: str, count: int, seed: int, folder: Path, advance: Advance) -> dict[str, Any]:
    """Run one part; returns what its ``run`` does: at least ``count`` and ``failures``."""
    module = importlib.import_module(f'tools.soak_parts.{part}')
    return module.run(count, seed, folder / part, advance)


def show(summary: dict[str, Any], console: Console) -> None:
    """Print the table."""
    table = Table('part', 'trials', 'failed', 'what happened', 'time', title='soak')
    for name, part in summary['parts'].items():
        details = {k: v for k, v in part.items() if k not in ('count', 'failures', 'seconds')}
        told = '\n'.join(f'{key}: {_told(value)}' for key, value in details.items())
        cells = (str(part['count']), str(len(part['failures'])), told, f'{part["seconds"]} s')
        table.add_row(name, *cells)
    console.print(table)


def _told(value: Any) -> str:
    if isinstance(value, list):
        return str(len(value))
    if not isinstance(value, dict):
        return str(value)
    return ', '.join(f'{name} {number}' for name, number in value.items())


def main(arguments: list[str] | None = None) -> None:
    """Run the soak."""
    options = parse_options(arguments)
    console = Console(width=100)
    with one_line_errors('soak.py'):
        summary = soak(options, console)
    out = options.out or options.work_dir / 'soak.json'
    out.write_text(json.dumps(summary, indent=1) + '\n')
    show(summary, console)
    console.print(f'summary: {out}', highlight=False)
    if any(part['failures'] for part in summary['parts'].values()):
        sys.exit(1)


if __name__ == '__main__':
    main()
