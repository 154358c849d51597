"""The runs of tools/compare_tuners.py as a table and a picture."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

_LABEL_WIDTH, _LABEL_HEIGHT = 75, 11  # pixels of the name of a point


class Row(NamedTuple):
    """What is told of a tuner.

    Attributes:
        tuner: Its part.
        lr: The learning rate that was chosen.
        trained_values: On the first task, head included.
        delta_bytes: On the first task.
        accuracies: By task, one of each seed, in percent.
        images_per_second: In training; None where the cost was not measured.
        kept_bytes: Activations that a step keeps for its backward pass, of an image.
        merges: Whether it folds into the trunk.
    """

    tuner: str
    lr: float
    trained_values: int
    delta_bytes: int
    accuracies: dict[str, list[float]]
    images_per_second: float | None = None
    kept_bytes: float | None = None
    merges: bool | None = None


def summarise(
    results: Sequence[dict[str, Any]], tasks: Sequence[str], cost: Path | None = None
) -> list[Row]:
    """Make a row of each tuner, the best mean accuracy first.

    Args:
        results: JSONs of test runs.
        tasks: Their tasks.
        cost: JSON of ``tools/benchmark.py --system tuners``.
    """
    measured = json.loads(cost.read_text()) if cost else {'results': {}}
    rows = []
    for tuner in dict.fromkeys(result['tuner'] for result in results):
        own = [result for result in results if result['tuner'] == tuner]
        by_task = {task: [r['accuracy'] for r in own if r['task'] == task] for task in tasks}
        first = next(result for result in own if result['task'] == tasks[0])
        values = (tuner, first['lr'], first['trained_values'], first['delta_bytes'], by_task)
        rows.append(Row(*values, *_cost(measured, tuner)))
    return sorted(rows, key=lambda row: -mean_accuracy(row))


def mean_accuracy(row: Row) -> float:
    """Average the tasks' means over the seeds."""
    return statistics.mean(statistics.mean(own) for own in row.accuracies.values())


def to_markdown(rows: Sequence[Row], tasks: Sequence[str]) -> str:
    """Lay the rows out as a table."""
    has_cost = any(row.images_per_second is not None for row in rows)
    titles = ['tuner', 'lr', 'trained values', 'delta kB', *tasks, 'mean']
    titles += ['training images/s', 'kept MB / image', 'merges'] if has_cost else []
    lines = [f'| {" | ".join(titles)} |', '|---' * len(titles) + '|']
    for row in rows:
        cells = [row.tuner, f'{row.lr:g}', f'{row.trained_values:,}']
        cells += [f'{row.delta_bytes / 1e3:,.0f}']
        cells += [_spread(row.accuracies[task]) for task in tasks]
        cells += [f'{mean_accuracy(row):.1f}']
        if row.images_per_second is not None:
            cells += [f'{row.images_per_second:.0f}', f'{row.kept_bytes / 1e6:.2f}']
            cells += ['yes' if row.merges else 'no']
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def draw(rows: Sequence[Row], tasks: Sequence[str], file: Path) -> None:
    """Draw the accuracy on each task against the trained values."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(tasks), figsize=(7 * len(tasks), 6), squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        points = [(row.trained_values, statistics.mean(row.accuracies[task])) for row in rows]
        colors = ['tab:red' if row.merges else 'tab:blue' for row in rows]
        axis.scatter(*zip(*points, strict=True), s=18, color=colors)
        axis.set(xscale='log', title=task, xlabel='trained values', ylabel='top-1 in percent')
        axis.grid(alpha=0.3)
    figure.tight_layout()
    for axis, task in zip(axes[0], tasks, strict=True):
        _name_points(axis, {row.tuner: (row.trained_values, row.accuracies[task]) for row in rows})
    figure.savefig(file)
    pyplot.close(figure)


def _name_points(axis: Any, points: dict[str, tuple[float, list[float]]]) -> None:
    """Write names beside points, from the highest on, each below those that it would cover."""
    taken: list[tuple[float, float]] = []
    middles = {name: (x, statistics.mean(values)) for name, (x, values) in points.items()}
    for name, point in sorted(middles.items(), key=lambda item: -item[1][1]):
        x, y = start = axis.transData.transform(point)
        while any(abs(x - a) < _LABEL_WIDTH and abs(y - b) < _LABEL_HEIGHT for a, b in taken):
            y -= 1
        taken.append((x, y))
        line = dict(arrowstyle='-', color='0.7', lw=0.5) if y < start[1] else None
        place = axis.transData.inverted().transform((x + 6, y))
        axis.annotate(name, point, xytext=place, va='center', fontsize=7, arrowprops=line)


def _spread(accuracies: list[float]) -> str:
    """Write the mean and half the distance of the extremes."""
    half = (max(accuracies) - min(accuracies)) / 2
    return f'{statistics.mean(accuracies):.1f} ± {half:.1f}'


def _cost(measured: dict[str, Any], tuner: str) -> tuple[float | None, float | None, bool | None]:
    own = measured['results'].get(tuner)
    if own is None:
        return None, None, None
    batch = int(measured['batch'])
    step = statistics.median(own['step_s'])
    return batch / step, own['saved_bytes'] / batch, own['merges']
