"""The main job in one command, offline: fine-tune HST and, beside it, a linear probe.

    bash tools/quickstart.sh [--pretrained] [--fresh] [--work-dir DIR]

Trains on images that the project renders, on a small trunk that it pre-trained on another task of
the same renderer, and ends with a table, a learning curve and a report. What is done already is
kept; a run that was cut short goes on.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console
from rich.table import Table

from hstpeft.errors import UserError, one_line_errors
from tools.analysis.analyze_logs import read_run
from tools.memory import peak_mb

NAMES = {'hst': 'HST', 'linear': 'linear probe'}
CONFIGS = {
    False: {
        'hst': 'hst_vit-mini_1xb32-12e_rendered',
        'linear': 'linear_vit-mini_1xb32-10e_rendered',
    },
    True: {
        'hst': 'hst_vit-ti16_1xb32-12e_rendered',
        'linear': 'linear_vit-ti16_1xb32-10e_rendered',
    },
}
# ViT-Ti/16 at half its usual resolution keeps the run short on two cores.
PRETRAINED_SIZE = '112'


@dataclass
class Result:
    """One row of the table."""

    method: str
    accuracy: float  # percent of the test images
    trainable: int
    total: int
    delta_bytes: int
    seconds: float  # of training, over all attempts
    peak_mb: float  # largest resident memory of the training process
    curve: list[tuple[int, float]]  # (epoch, validation accuracy in percent)


def run(command: list[str], env: dict[str, str], log: Path) -> float:
    """Run a tool, showing its epochs; returns its peak memory in MB.

    Raises:
        UserError: The tool failed; with its own last line.
    """
    last = ''
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )
    with log.open('a') as file, process.stdout:
        for line in process.stdout:
            file.write(line)
            last = line.strip() or last
            if re.search(r'Epoch\((train|val)\)', line):
                print('  ' + re.sub(r'.* INFO - ', '', line.strip()), flush=True)
    _, status, usage = os.wait4(process.pid, 0)  # as wait(), with the memory
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f'{last} (whole log: {log})')
    return peak_mb(usage)


def train_and_test(method: str, config: Path, work_dir: Path, env: dict[str, str]) -> Result:
    """Train one method, or go on where it was cut short, and test its delta."""
    work_dir.mkdir(parents=True, exist_ok=True)
    done = work_dir / 'result.json'
    if done.exists():
        print(f'{NAMES[method]}: done already ({done})')
        return Result(**json.loads(done.read_text()))
    print(f'{NAMES[method]}: training, {config.stem}', flush=True)
    python, log, spent = sys.executable, work_dir / 'log.txt', work_dir / 'seconds.txt'
    train = [python, 'tools/train.py', str(config), '--work-dir', str(work_dir), '--resume']
    start = time.perf_counter() - (float(spent.read_text()) if spent.exists() else 0.0)
    try:
        peak = run(train, env, log)
    finally:  # an attempt that is cut short counts as well
        seconds = time.perf_counter() - start
        spent.write_text(str(seconds))
    metrics, counts = work_dir / 'metrics.json', work_dir / 'counts.json'
    test = [python, 'tools/test.py', str(config), str(work_dir / 'delta.pth')]
    run([*test, '--work-dir', str(work_dir / 'test'), '--out', str(metrics)], env, log)
    run([python, 'tools/analysis/get_flops.py', str(config), '--out', str(counts)], env, log)
    owners = json.loads(counts.read_text())['parameters']
    accuracy = read_run(work_dir).curves['accuracy/top1']
    result = Result(
        method=method,
        accuracy=json.loads(metrics.read_text())['accuracy/top1'],
        trainable=sum(owner['trainable'] for owner in owners),
        total=sum(owner['all'] for owner in owners),
        delta_bytes=(work_dir / 'delta.pth').stat().st_size,
        seconds=seconds,
        peak_mb=peak,
        curve=list(zip(accuracy.steps, accuracy.values, strict=True)),
    )
    done.write_text(json.dumps(asdict(result), indent=2) + '\n')
    return result


def draw(results: list[Result], path: Path) -> None:
    """Draw the learning curves."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout='constrained')
    for result in results:
        epochs, accuracy = zip(*result.curve, strict=True)
        axes.plot(epochs, accuracy, marker='o', label=NAMES[result.method])
    axes.set(xlabel='epoch', ylabel='validation accuracy (%)', ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(loc='lower right')
    figure.savefig(path, dpi=150)
    plt.close(figure)


HEADER = ('method', 'accuracy', 'trainable', 'share', 'delta file', 'training', 'peak memory')


def cells(result: Result) -> list[str]:
    """Format one row of the table."""
    return [
        NAMES[result.method],
        f'{result.accuracy:.1f} %',
        f'{result.trainable:,}',
        f'{100 * result.trainable / result.total:.1f} %',
        f'{result.delta_bytes / 1e6:.2f} MB',
        f'{result.seconds:.0f} s',
        f'{result.peak_mb:.0f} MB',
    ]


def report(results: list[Result], folder: Path) -> None:
    """Print the table; write it with the picture as report.md and report.json."""
    draw(results, folder / 'learning_curve.png')
    table = Table(*HEADER)
    for result in results:
        table.add_row(*cells(result))
    Console(width=100).print(table)
    rows = [HEADER, ['---'] * len(HEADER), *map(cells, results)]
    lines = ['# Quickstart', '', *('| ' + ' | '.join(row) + ' |' for row in rows)]
    lines += ['', '![learning curves](learning_curve.png)', '']
    (folder / 'report.md').write_text('\n'.join(lines))
    summary = json.dumps([asdict(result) for result in results], indent=2) + '\n'
    (folder / 'report.json').write_text(summary)
    print(f'report: {folder}/report.md, report.json, learning_curve.png')


def main(arguments: list[str] | None = None) -> None:
    """Run the quickstart."""
    parser = argparse.ArgumentParser(description='Fine-tune HST and a linear probe, offline.')
    parser.add_argument(
        '--pretrained',
        action='store_true',
        help='use an ImageNet ViT-Ti/16 from the timm hub (downloads) instead of the shipped trunk',
    )
    parser.add_argument('--fresh', action='store_true', help='forget what was done before')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/quickstart'))
    options = parser.parse_args(arguments)
    folder = options.work_dir.resolve() / ('pretrained' if options.pretrained else '')
    env = dict(os.environ)
    env.setdefault('PYTHONWARNINGS', 'ignore')
    if options.pretrained:
        env['RENDERED_SIZE'] = PRETRAINED_SIZE
    with one_line_errors('quickstart'):
        results = []
        for method, name in CONFIGS[options.pretrained].items():
            if options.fresh:
                forget(folder / method)
            config = ROOT / f'configs/quickstart/{name}.py'
            results.append(train_and_test(method, config, folder / method, env))
        report(results, folder)


def forget(work_dir: Path) -> None:
    """Remove the quickstart's own results, nothing else."""
    names = ('result.json', 'seconds.txt', 'log.txt', 'metrics.json', 'counts.json')
    saved = ('delta.pth', 'interrupted.pth')
    for path in [*(work_dir / name for name in (*names, *saved)), *work_dir.glob('epoch_*.pth')]:
        path.unlink(missing_ok=True)


if __name__ == '__main__':
    main()
