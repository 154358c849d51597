"""Measure what our promises cost: a training step and a save, ours against mmengine's.

    python tools/benchmarks/hooks.py [--weights FILE] [--batch 8] [--threads 2] [--out FILE.json]

Ours is `CheckedRunner` with all `PROMISED_HOOKS` and whatever else it does; mmengine's is its plain
`Runner` with its default hooks alone. Both train a ViT-Ti/16 with HST in short turns, ours,
mmengine's, mmengine's, ours, so that other load on the machine affects both. A step is timed from
the end of one to the end of the next, all hooks included, by mmengine's own timer; the images are
kept in memory. The time within the promised hooks, and what they do before a step of the optimiser, is
also taken by itself: the more reliable measure of a difference below one percent.

A save is that of the CheckpointHook at the end of an epoch, with optimiser; of HST, whose
checkpoints are small, and of full fine-tuning. The work folder should lie on the disk that is used
for training.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import timm
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS
from mmpretrain.structures import DataSample
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import save_file
from torch.optim import Optimizer
from torch.utils.data import Dataset

from hstpeft.engine.config import load_config
from hstpeft.engine.promises import PROMISED_HOOKS
from hstpeft.engine.runner import CheckedRunner
from tools.measure import commit, processor

ROOT = Path(__file__).resolve().parents[2]
ARCH = 'vit_tiny_patch16_224'
LEAVES = {
    name: ROOT / f'configs/{name}/{name}_vit-ti16_1xb32-12e_vtab-1k.py' for name in ('hst', 'full')
}
KINDS = {'ours': CheckedRunner, 'mmengine': Runner}


@DATASETS.register_module()
class KeptImages(Dataset):
    """Random images of 224 pixels that cost nothing to load.

    Args:
        count: Number of images.
        num_classes: Their labels are drawn from so many.
    """

    def __init__(self, count: int, num_classes: int) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (count, 3, 224, 224)
        self.images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        self.labels = torch.randint(num_classes, (count,), generator=generator).tolist()
        self.metainfo = dict(classes=tuple(map(str, range(num_classes))))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return what the hosts' pipelines end with."""
        sample = DataSample().set_gt_label(self.labels[index])
        return dict(inputs=self.images[index], data_samples=sample)


def make_config(
    name: str, kind: str, steps: int, options: argparse.Namespace, epochs: int = 2
) -> Config:
    """Make the config of a training: a warm-up epoch, and others of so many steps to be timed."""
    cfg = load_config(LEAVES[name])
    cfg.merge_from_dict({'model.backbone.trunk.weights': str(options.weights)})
    dataset = dict(type='KeptImages', count=options.batch * steps, num_classes=cfg.num_classes)
    cfg.train_dataloader = dict(
        batch_size=options.batch,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
        dataset=dataset,
    )
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.train_cfg = dict(by_epoch=True, max_epochs=epochs, val_interval=epochs + 1)
    cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=-1)
    if kind == 'mmengine':
        cfg.custom_hooks = []
        cfg.default_hooks.checkpoint.type = 'CheckpointHook'
    cfg.log_level = 'ERROR'
    cfg.experiment_name = f'{name}-{kind}-{time.time_ns()}'
    cfg.work_dir = str(options.work_dir / cfg.experiment_name)
    return cfg


def train(
    name: str, kind: str, steps: int, options: argparse.Namespace
) -> tuple[Runner, list[float], float]:
    """Train in one turn.

    Returns:
        The runner, the seconds of each timed step, and those within the promised hooks per step.
    """
    runner = KINDS[kind].from_cfg(make_config(name, kind, steps, options))
    within: list[float] = []
    for hook in runner.hooks:
        if f'hstpeft.{type(hook).__name__}' in PROMISED_HOOKS:
            for point in ('before_train_iter', 'after_train_iter'):
                setattr(hook, point, _timed(getattr(hook, point), within))
    register = Optimizer.register_step_pre_hook
    with mock.patch.object(  # mmengine itself registers none
        Optimizer, 'register_step_pre_hook', lambda self, look: register(self, _timed(look, within))
    ):
        runner.train()
    seconds, _ = runner.message_hub.get_scalar('train/time').data
    return runner, seconds[steps + 1 :].tolist(), sum(within) / (2 * steps)


def _timed(function: Callable, spent: list[float]) -> Callable:
    def call(*args: Any, **kwargs: Any) -> None:
        start = time.perf_counter()
        function(*args, **kwargs)
        spent.append(time.perf_counter() - start)

    return call


def measure_steps(options: argparse.Namespace) -> dict[str, Any]:
    """Time steps in turns; a ratio is that of the medians of two neighbouring turns."""
    medians = {kind: [] for kind in KINDS}
    shares = []
    for turn in track(range(options.turns), 'steps'):
        order = list(KINDS) if turn % 2 == 0 else list(KINDS)[::-1]
        for kind in order:
            _, seconds, within = train('hst', kind, options.steps, options)
            medians[kind].append(statistics.median(seconds))
            if kind == 'ours':
                shares.append(within / statistics.median(seconds))
    return dict(**compared(medians), within_hooks=spread(shares), steps_per_turn=options.steps - 1)


def measure_saves(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Time the saves of trainings in turns; a ratio is that of the medians of two neighbouring turns."""
    medians = {kind: [] for kind in KINDS}
    sizes = {}
    for turn in track(range(max(2, options.turns // 2)), f'saves, {name}'):
        order = list(KINDS) if turn % 2 == 0 else list(KINDS)[::-1]
        for kind in order:
            runner = KINDS[kind].from_cfg(
                make_config(name, kind, 1, options, epochs=options.saves + 1)
            )
            hook = next(h for h in runner.hooks if hasattr(h, 'save_param_scheduler'))
            seconds: list[float] = []
            hook.after_train_epoch = _timed(hook.after_train_epoch, seconds)
            runner.train()
            medians[kind].append(statistics.median(seconds[1:]))  # the first imports and lays out
            newest = Path(runner.work_dir, f'epoch_{options.saves + 1}.pth')
            sizes[f'{kind}_bytes'] = newest.stat().st_size
    return dict(**compared(medians), **sizes)


def compared(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Return both series and the spread of ours over mmengine's, turn by turn."""
    ratios = [a / b for a, b in zip(seconds['ours'], seconds['mmengine'], strict=True)]
    return dict(ratio=spread(ratios), seconds=seconds)


def spread(values: list[float]) -> dict[str, float]:
    """Return median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method='inclusive')
    return dict(median=middle, low=low, high=high)


def show(results: dict[str, dict], console: Console) -> None:
    """Print medians, ratios and their quartiles."""
    table = Table('', 'ours ms', 'mmengine ms', 'ratio', 'quartiles', 'within our hooks')
    for name, result in results.items():
        ratio, hooks = result['ratio'], result.get('within_hooks')
        times = [f'{1e3 * statistics.median(result["seconds"][kind]):.1f}' for kind in KINDS]
        quartiles = f'{ratio["low"]:.3f} to {ratio["high"]:.3f}'
        share = f'{hooks["median"]:.3%}' if hooks else ''
        table.add_row(name, *times, f'{ratio["median"]:.3f}', quartiles, share)
    console.print(table)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, and write the numbers."""
    parser = argparse.ArgumentParser(description='Cost of our hooks and of saving.')
    parser.add_argument('--weights', type=Path, help='of a ViT-Ti/16; default: random')
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--turns', type=int, default=16, help='trainings of each runner')
    parser.add_argument('--steps', type=int, default=12, help='steps of a turn')
    parser.add_argument('--saves', type=int, default=8, help='timed saves of a training')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/hooks'))
    parser.add_argument('--out', type=Path, help='write all timings to this JSON file')
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.work_dir.mkdir(parents=True, exist_ok=True)
    weights = options.weights
    if weights is None:
        options.weights = options.work_dir / f'{ARCH}_random.safetensors'
        save_file(timm.create_model(ARCH, num_classes=0).state_dict(), options.weights)
    results = {'step, HST': measure_steps(options)}
    for name in LEAVES:
        results[f'save, {name}'] = measure_saves(name, options)
    console = Console(width=100)
    console.print(f'{processor()}, {options.threads} threads, batch {options.batch}')
    show(results, console)
    if options.out:
        about = dict(
            processor=processor(),
            threads=options.threads,
            batch=options.batch,
            weights=weights.name if weights else 'random',
            versions=dict(python=platform.python_version(), torch=torch.__version__),
            commit=commit(),
            date=time.strftime('%Y-%m-%d'),
            hooks=PROMISED_HOOKS,
        )
        options.out.write_text(json.dumps(dict(**about, results=results), indent=1) + '\n')


if __name__ == '__main__':
    main()
