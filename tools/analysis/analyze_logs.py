"""Tabulate and plot what trainings logged: losses, metrics, seconds an iteration.

    python tools/analysis/analyze_logs.py WORK_DIR [WORK_DIR ...] [--keys loss mIoU]
        [--plot FILE.png] [--out FILE.json]

A work folder holds one time-stamped folder an attempt; a run that was killed and resumed is read as
one. A `scalars.json` alone is read too. Best is the lowest value of a loss or a time, the highest of
anything else. Without `--keys`: the loss and the main metric of whatever was trained.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rich.console import Console
from rich.table import Table

from hstpeft.errors import UserError, nearest, one_line_errors

DEFAULT_KEYS = ('loss', 'accuracy/top1', 'mIoU', 'coco/bbox_mAP', 'coco/segm_mAP')
# What else stands in a line of the log.
_COUNTERS = {'step', 'iter', 'epoch'}
_LOWER_IS_BETTER = {'time', 'data_time', 'memory'}

Line = dict[str, float]


class Curve(NamedTuple):
    """Values of one key, by rising step (iterations, or epochs of a validation)."""

    steps: list[int]
    values: list[float]


class Run(NamedTuple):
    """What one training logged.

    Attributes:
        name: Of its folder.
        curves: Key -> its values.
        iteration_s: Mean seconds of a training iteration, nan without any.
    """

    name: str
    curves: dict[str, Curve]
    iteration_s: float


def read_run(path: Path) -> Run:
    """Read a work folder with all its attempts, or one log.

    Raises:
        UserError: There is no log, or a line in it cannot be read.
    """
    files = sorted(path.glob('*/vis_data/scalars.json')) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise UserError(
            f'{path} holds no <time>/vis_data/scalars.json: give the --work-dir of a training'
        )
    lines = join([read_lines(file) for file in files])
    if not lines:
        raise UserError(f'{path}: nothing was logged yet')
    times = [line['time'] for line in lines if is_training(line) and 'time' in line]
    return Run(
        path.resolve().name if path.is_dir() else str(path),
        collect(lines),
        statistics.fmean(times) if times else math.nan,
    )


def read_lines(file: Path) -> list[Line]:
    """Read a log; a last line that was cut off by a kill is left out."""
    texts = file.read_text().splitlines()
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError as error:
            if number < len(texts):
                raise UserError(f'line {number} of {file} is no JSON: {error}') from error
    return lines


def is_training(line: Line) -> bool:
    """Tell a line of the training from one of a validation, whose steps may be epochs."""
    return 'iter' in line


def join(attempts: Sequence[list[Line]]) -> list[Line]:
    """Join the attempts of one run: each ends where the next one begins."""
    joined: list[Line] = []
    for lines in attempts:
        starts = [line['step'] for line in lines if is_training(line)]
        if starts:
            joined = before(joined, starts[0])
        joined += lines
    return joined


def before(lines: list[Line], step: int) -> list[Line]:
    """Return the lines up to the first one of the training at a step or beyond."""
    for index, line in enumerate(lines):
        if is_training(line) and line['step'] >= step:
            return lines[:index]
    return lines


def collect(lines: Sequence[Line]) -> dict[str, Curve]:
    """Sort the values by key; the training's own times win over those of a validation."""
    trained = {key for line in lines if is_training(line) for key in line}
    curves: dict[str, Curve] = {}
    for line in lines:
        for key, value in line.items():
            if key in _COUNTERS or (key in trained and not is_training(line)):
                continue
            curve = curves.setdefault(key, Curve([], []))
            curve.steps.append(line['step'])
            curve.values.append(value)
    return curves


def choose_keys(runs: Sequence[Run], wanted: Sequence[str] | None) -> list[str]:
    """Return the keys to show.

    Raises:
        UserError: No run logged a wanted key; gives the nearest one.
    """
    known = {key for run in runs for key in run.curves}
    for key in wanted or ():
        if key not in known:
            raise UserError(f'--keys {key} was not logged: {nearest(key, known)}')
    keys = list(wanted or [key for key in DEFAULT_KEYS if key in known])
    if not keys:
        raise UserError(f'give --keys: {", ".join(sorted(known))}')
    return keys


def best(key: str, curve: Curve) -> tuple[int, float] | None:
    """Return step and value of the best entry; None if there is no finite one."""
    finite = [entry for entry in zip(*curve, strict=True) if math.isfinite(entry[1])]
    choose = min if lower_is_better(key) else max
    return choose(finite, key=lambda entry: entry[1], default=None)


def lower_is_better(key: str) -> bool:
    """Whether a key is a loss or a cost."""
    name = key.replace('/', '.').split('.')[-1]
    return name in _LOWER_IS_BETTER or name.startswith('loss') or name.endswith('loss')


def tabulate(runs: Sequence[Run], keys: Sequence[str]) -> list[dict]:
    """Make a row for every run and key that it logged."""
    rows = []
    for run in runs:
        for key in (key for key in keys if key in run.curves):
            curve = run.curves[key]
            row = dict(run=run.name, key=key, last=curve.values[-1], last_step=curve.steps[-1])
            found = best(key, curve)
            row |= dict(zip(('best_step', 'best'), found or (None, None), strict=True))
            rows.append(row | {'iteration_s': run.iteration_s})
    return rows


def show(rows: Sequence[dict], console: Console) -> None:
    """Print the table."""
    names = ('run', 'key', 'last', 'step', 'best', 'at step', 's / iteration')
    table = Table(*names)
    for column in table.columns[2:]:
        column.justify = 'right'
    for row in rows:
        values = [row['last'], row['last_step'], row['best'], row['best_step'], row['iteration_s']]
        table.add_row(row['run'], row['key'], *('' if v is None else f'{v:.5g}' for v in values))
    console.print(table)


def plot(runs: Sequence[Run], keys: Sequence[str], path: Path) -> None:
    """Draw one panel a key with a curve a run.

    Raises:
        UserError: The file cannot be written.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    size = (6, 3 * len(keys))
    figure, axes = pyplot.subplots(len(keys), figsize=size, layout='constrained', squeeze=False)
    for axis, key in zip(axes[:, 0], keys, strict=True):
        for run in (run for run in runs if key in run.curves):
            axis.plot(*run.curves[key], marker='.', label=run.name)
        axis.set(xlabel='step', ylabel=key)
        axis.grid(alpha=0.3)
        axis.legend()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise UserError(f'--plot {path} cannot be written: {error}') from error
    finally:
        pyplot.close(figure)


def to_json(rows: Sequence[dict]) -> str:
    """Write the rows as JSON, which has no nan."""

    def clean(value: object) -> object:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps([{k: clean(v) for k, v in row.items()} for row in rows], indent=1)


def main(arguments: list[str] | None = None) -> list[dict]:
    """Tabulate some runs; returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('runs', type=Path, nargs='+', help='work folders, or scalars.json files')
    parser.add_argument('--keys', nargs='+', help='what to show, e.g. loss mIoU')
    parser.add_argument('--plot', type=Path, metavar='FILE.png', help='draw the curves')
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='write the table there')
    options = parser.parse_args(arguments)
    with one_line_errors('analyze_logs.py'):
        runs = [read_run(path) for path in options.runs]
        keys = choose_keys(runs, options.keys)
        rows = tabulate(runs, keys)
        show(rows, Console(width=100))
        if options.plot:
            plot(runs, keys, options.plot)
            print(f'curves: {options.plot}')
        if options.out:
            options.out.write_text(to_json(rows) + '\n')
    return rows


if __name__ == '__main__':
    main()
