"""Train configs, test them, and write one JSON per run and one table of all.

python tools/measure.py CONFIG [CONFIG ...] --out DIR [--cfg-options KEY=VALUE ...]

A run whose JSON exists is not repeated; one that was cut short goes on from its last checkpoint.
Training and testing are the processes of tools/train.py and tools/test.py. Time and memory are
those of the training process alone: CPU seconds of all its threads, wall seconds, and the peak of
its resident memory. A MB is 10^6 bytes.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from rich.table import Table

from hstpeft.compat import EXTRA_STATE
from hstpeft.delta import load_checkpoint
from hstpeft.errors import UserError, one_line_errors
from tools.memory import peak_mb

TOOLS = Path(__file__).resolve().parent
COLUMNS = {
    'run': 'run',
    'metrics': 'metric',
    'trainable': 'trainable',
    'delta_mb': 'delta MB',
    'cpu_seconds': 'CPU s',
    'wall_seconds': 'wall s',
    'peak_mb': 'peak MB',
}


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train configs, test them, write JSON and table.')
    parser.add_argument('configs', nargs='+', type=Path, help='config files')
    parser.add_argument('--out', type=Path, required=True, help='folder for work folders and JSONs')
    parser.add_argument(
        '--show', action='store_true', help='draw the predictions into DIR/RUN/show'
    )
    parser.add_argument(
        '--metrics', nargs='+', default=[], help='of the test metrics, those for the table'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for every config'
    )
    return parser.parse_args(arguments)


def measure(config: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train and test one config, or read what was measured before."""
    report = options.out / f'{config.stem}.json'
    if report.is_file():
        return json.loads(report.read_text())
    work_dir = options.out / config.stem
    work_dir.mkdir(parents=True, exist_ok=True)
    overrides = ['--cfg-options', *options.cfg_options] if options.cfg_options else []
    spent = train(config, work_dir, overrides)
    delta, metrics = work_dir / 'delta.pth', work_dir / 'metrics.json'
    show = ['--show-dir', str(work_dir / 'show')] if options.show else []
    call('test.py', config, delta, '--work-dir', work_dir, '--out', metrics, *show, *overrides)
    result = {
        'run': config.stem,
        'metrics': json.loads(metrics.read_text()),
        'trainable': count_trainable(delta),
        'delta_mb': round(delta.stat().st_size / 1e6, 2),
        **spent,
        'threads': int(os.environ.get('OMP_NUM_THREADS', torch.get_num_threads())),
        'options': options.cfg_options,
        'machine': f'{processor()}, {os.cpu_count()} cores',
        'versions': {'python': platform.python_version(), 'torch': torch.__version__},
        'commit': commit(),
        'date': time.strftime('%Y-%m-%d'),
    }
    report.write_text(json.dumps(result, indent=2) + '\n')
    return result


def train(config: Path, work_dir: Path, overrides: list[str]) -> dict[str, float]:
    """Train, going on where an earlier attempt stopped; returns what all attempts spent.

    An attempt that was killed together with this tool is not in the sum.

    Raises:
        UserError: The delta is there, but not what it took.
    """
    ledger = work_dir / 'spent.json'
    spent = json.loads(ledger.read_text()) if ledger.is_file() else []
    if not (work_dir / 'delta.pth').is_file():
        flags = ['--work-dir', work_dir, '--resume', '--no-validate']
        spent.append(call('train.py', config, *flags, *overrides, ledger=ledger, before=spent))
    if not spent:
        raise UserError(
            f'{work_dir} holds a delta that this tool did not see trained: remove the folder'
        )
    return {
        'cpu_seconds': round(sum(attempt['cpu_seconds'] for attempt in spent)),
        'wall_seconds': round(sum(attempt['wall_seconds'] for attempt in spent)),
        'peak_mb': round(max(attempt['peak_mb'] for attempt in spent)),
        'attempts': len(spent),
    }


def call(
    tool: str, *arguments: Any, ledger: Path | None = None, before: list[dict] | None = None
) -> dict[str, float]:
    """Run a tool in a process of its own; returns what it spent.

    Args:
        tool: File below tools/.
        arguments: Its command line.
        ledger: File for what it and the attempts before it spent, written even if it fails.
        before: What those attempts spent.

    Raises:
        UserError: The tool failed; its output has been shown.
    """
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, str(TOOLS / tool), *map(str, arguments)])
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        # Nobody would see what it spends, and the next attempt would work beside it.
        process.kill()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    spent = {
        'cpu_seconds': usage.ru_utime + usage.ru_stime,
        'wall_seconds': time.perf_counter() - start,
        'peak_mb': peak_mb(usage),
    }
    if ledger is not None:
        ledger.write_text(json.dumps([*(before or []), spent]))
    if process.returncode:
        raise UserError(f'{tool} {arguments[0]} ended with status {process.returncode}: see above')
    return spent


def count_trainable(delta: Path) -> int:
    """Count the values of a delta, without statistics, queues and the identity."""
    state = load_checkpoint(delta)['state_dict']
    statistics = ('running_mean', 'running_var', 'num_batches_tracked', EXTRA_STATE)
    return sum(
        value.numel()
        for name, value in state.items()
        if value.is_floating_point() and name.rpartition('.')[2] not in statistics
    )


def processor() -> str:
    """Name the processor."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor()


def commit() -> str:
    """Name the commit of this clone; empty outside of one."""
    command = ['git', '-C', str(TOOLS), 'rev-parse', '--short', 'HEAD']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def table(results: list[dict[str, Any]], metrics: list[str]) -> Table:
    """Lay out the results, a run a row."""
    rendered = Table(*COLUMNS.values())
    for result in results:
        chosen = {k: v for k, v in result['metrics'].items() if not metrics or k in metrics}
        shown = {**result, 'metrics': ', '.join(f'{k} {v:.4g}' for k, v in chosen.items())}
        rendered.add_row(
            *(f'{v:,}' if isinstance(v, int) else str(v) for v in (shown[key] for key in COLUMNS))
        )
    return rendered


def main(arguments: list[str] | None = None) -> None:
    """Measure every config and print the table."""
    options = parse_options(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with one_line_errors('measure.py'):
        results = [measure(config, options) for config in options.configs]
        Console().print(table(results, options.metrics))


if __name__ == '__main__':
    main()
