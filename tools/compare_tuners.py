"""Train every tuner on small real tasks under one budget: one JSON per run, then one table.

    python tools/compare_tuners.py --weights VIT_TI.safetensors --root VTAB_FOLDER --out DIR [--tuners arc lora ...]

For each tuner part (configs/_base_/tuners): three learning rates on train800, seed 0, judged on val200
of the first task; then the best of them on train800val200 of every task, seeds 0 and 1, the test split
read once a run, at the end. A run whose JSON exists is not repeated, so the tool goes on where it was
stopped. ViT-Ti/16, 96 pixels, 4 epochs, batch 32, no augmentation.
"""

import argparse
import itertools
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from hstpeft.compat import close_loggers
from hstpeft.delta.writing import write_file
from hstpeft.engine.config import config_root
from hstpeft.errors import UserError, check_names, one_line_errors
from tools import test, train
from tools.benchmarks.tuner_table import draw, summarise, to_markdown
from tools.measure import commit, count_trainable, processor

TASKS = ('sign_digits', 'rbc12')
SEEDS = (0, 1)
USUAL_RATES = (1e-3, 3e-3, 1e-2)
RATES = {
    'frozen': (3e-3, 1e-2, 3e-2),
    'full': (1e-4, 3e-4, 1e-3),
    'last-blocks': (1e-4, 3e-4, 1e-3),
    'apla': (1e-4, 3e-4, 1e-3),
}
"""Where pre-trained weights are trained themselves, the rates that suit a tuner destroy them."""
LEFT_OUT = ('hst-dense',)
"""Parts that are another one with other numbers."""
LEAF = """
_base_ = [
    '{base}/tasks/{task}.py',
    '{base}/trunks/vit-ti16_augreg-in21k-in1k.py',
    '{base}/tuners/{tuner}.py',
    '{base}/datasets/vtab-1k.py',
    '{base}/schedules/4e_adamw.py',
    '{base}/default_runtime.py',{neck}
]
width = {width}
model = dict(
    data_preprocessor=_base_.img_norm,
    backbone=dict(trunk=dict(_base_.trunk, weights='{weights}'), tuner=_base_.tuner),
    head=dict(num_classes=_base_.num_classes, in_channels=width),
)
pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='Resize', scale=(96, 96), backend='pillow', interpolation='bicubic'),
    dict(type='PackInputs'),
]
data = dict(dataset=dict(pipeline=pipeline), num_workers=0)
train_dataloader = data
val_dataloader = data
test_dataloader = data
optim_wrapper = dict(optimizer=dict(lr={lr}))
randomness = dict(seed={seed})
"""
NECK = "\nmodel['neck'] = dict(_base_.neck, in_channels=width)\n"


def list_tuners() -> list[str]:
    """Name the tuner parts that are compared."""
    parts = sorted(path.stem for path in (config_root() / '_base_' / 'tuners').glob('*.py'))
    return [part for part in parts if part not in LEFT_OUT]


def write_leaf(folder: Path, tuner: str, weights: Path, lr: float, seed: int) -> Path:
    """Write the config of a run."""
    has_side, base = tuner.startswith('hst'), config_root() / '_base_'
    text = LEAF.format(
        base=base,
        task='cls-two-branch' if tuner.startswith('sa2vp') else 'cls',
        tuner=tuner,
        neck=f"\n    '{base}/necks/pooled-norm.py'," if has_side else '',
        width='_base_.tuner.side_dims[-1]' if has_side else '_base_.embed_dims',
        weights=weights,
        lr=lr,
        seed=seed,
    )
    folder.mkdir(parents=True, exist_ok=True)
    leaf = folder / 'config.py'
    leaf.write_text(text + (NECK if has_side else ''))
    return leaf


def run(
    options: argparse.Namespace, tuner: str, task: str, lr: float, seed: int, is_search: bool
) -> dict[str, Any]:
    """Train and test once, or read what was measured before.

    Args:
        options: Of the command line.
        tuner: Part of configs/_base_/tuners.
        task: Folder below the root.
        lr: Peak learning rate.
        seed: Of the run.
        is_search: Whether it trains on train800 and is judged on val200.
    """
    split = 'val200' if is_search else 'test'
    report = options.out / f'{tuner}_{task}_{split}_lr{lr:g}_seed{seed}.json'
    if report.is_file():
        return json.loads(report.read_text())
    print(f'{time.strftime("%H:%M:%S")} {report.stem}', flush=True)
    work_dir = options.work_dir / report.stem
    shutil.rmtree(work_dir, ignore_errors=True)
    os.environ.update(VTAB_ROOT=str(options.root), VTAB_TASK=task)
    # Not in the work folder itself, where mmengine writes the whole config down.
    leaf = write_leaf(work_dir / 'leaf', tuner, options.weights, lr, seed)
    lists = ['train_dataloader.dataset.ann_file=train800.txt'] if is_search else []
    lists += ['test_dataloader.dataset.ann_file=val200.txt'] if is_search else []
    common = [
        '--work-dir',
        str(work_dir),
        '--cfg-options',
        f'experiment_name={report.stem}',
        *lists,
    ]
    wall, cpu = time.perf_counter(), time.process_time()
    train.main([str(leaf), '--no-validate', *common])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    delta = work_dir / 'delta.pth'
    common[3] += '-test'
    metrics = test.main([str(leaf), str(delta), *common])
    result = {
        'tuner': tuner,
        'task': task,
        'split': split,
        'lr': lr,
        'seed': seed,
        'accuracy': metrics['accuracy/top1'],
        'trained_values': count_trainable(delta),
        'delta_bytes': delta.stat().st_size,
        'wall_seconds': round(wall, 1),
        'cpu_seconds': round(cpu, 1),
        'threads': torch.get_num_threads(),
        'machine': f'{processor()}, {os.cpu_count()} cores',
        'versions': {'python': platform.python_version(), 'torch': torch.__version__},
        'commit': commit(),
        'date': time.strftime('%Y-%m-%d'),
    }
    write_file(report, json.dumps(result, indent=2) + '\n')
    shutil.rmtree(work_dir)
    close_loggers()
    return result


def compare(options: argparse.Namespace, tuner: str) -> list[dict[str, Any]]:
    """Choose a rate for a tuner on the first task, then test it on every task."""
    rates = RATES.get(tuner, USUAL_RATES)
    searched = [run(options, tuner, TASKS[0], lr, 0, True) for lr in rates]
    best = max(searched, key=lambda result: result['accuracy'])['lr']
    return [
        run(options, tuner, task, best, seed, False)
        for task, seed in itertools.product(TASKS, SEEDS)
    ]


def main(arguments: list[str] | None = None) -> None:
    """Compare the tuners and print the table."""
    parser = argparse.ArgumentParser(description='Train every tuner on small real tasks.')
    parser.add_argument('--weights', type=Path, required=True, help='weights of the ViT-Ti/16')
    parser.add_argument('--root', type=Path, required=True, help='folder of the task folders')
    parser.add_argument('--out', type=Path, required=True, help='folder for the JSONs')
    parser.add_argument(
        '--work-dir',
        type=Path,
        default=Path('work_dirs/compare_tuners'),
        help='emptied after a run',
    )
    parser.add_argument('--tuners', nargs='+', default=list_tuners(), help='default: all')
    parser.add_argument(
        '--cost', type=Path, help='JSON of tools/benchmark.py --system tuners, for more columns'
    )
    parser.add_argument(
        '--plot', type=Path, help='draw accuracy against trained values: .svg, .png'
    )
    options = parser.parse_args(arguments)
    with one_line_errors('compare_tuners.py'):
        if not options.weights.is_file():
            raise UserError(f'--weights {options.weights} does not exist')
        options.weights, options.root = options.weights.resolve(), options.root.resolve()
        options.out.mkdir(parents=True, exist_ok=True)
        tuners = check_names('--tuners', options.tuners, list_tuners())
        results = [result for tuner in tuners for result in compare(options, tuner)]
        rows = summarise(results, TASKS, options.cost)
        print(to_markdown(rows, TASKS))
        if options.plot:
            draw(rows, TASKS, options.plot)


if __name__ == '__main__':
    main()
