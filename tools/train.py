"""Train a model.

python tools/train.py CONFIG [--resume [auto|must|CHECKPOINT]] [--bf16] [--dry-run] [--cfg-options KEY=VALUE ...]
"""

import argparse
import logging
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from hstpeft.engine import end_process_group, latest_checkpoint, restarted
from hstpeft.engine.config import load_config
from hstpeft.engine.launch import (
    add_trust,
    build_runner,
    common_parser,
    is_first_process,
    prepare,
)
from hstpeft.engine.resume.work_dir import empty, locked, set_aside
from hstpeft.errors import UserError, one_line_errors

LOADERS = ('train_dataloader', 'val_dataloader')


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = common_parser('Train a model.')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='auto|must|CHECKPOINT',
        help='go on from the newest readable checkpoint in the work folder, or start where there '
        'is none (auto, the default); fail where there is none (must); or go on from this file',
    )
    parser.add_argument(
        '--load-from',
        metavar='CHECKPOINT',
        help='start from the weights of this checkpoint or delta',
    )
    add_trust(parser)
    parser.add_argument(
        '--allow-new-head',
        action='store_true',
        help='with --load-from: keep the fresh head when it differs, and a neck of another kind, to '
        'start a new task',
    )
    parser.add_argument('--amp', action='store_true', help='float16 mixed precision (GPU)')
    parser.add_argument('--bf16', action='store_true', help='bfloat16 mixed precision (GPU or CPU)')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the lr to the actual global batch size'
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='one iteration, one validation batch, a delta, in WORK_DIR/dry_run: does everything fit '
        'together?',
    )
    parser.add_argument('--no-validate', action='store_true', help='no validation during training')
    return parser.parse_args(arguments)


def apply_options(cfg: Config, options: argparse.Namespace) -> None:
    """Apply the command line to the config, in place.

    Raises:
        UserError: Options contradict each other or the machine.
    """
    prepare(cfg, options)
    if options.amp and options.bf16:
        raise UserError('--amp and --bf16 exclude each other')
    if options.amp and not torch.cuda.is_available():
        raise UserError('--amp (float16) needs a GPU: use --bf16 on a CPU')
    if options.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
    if options.bf16 and cfg.model.get('roi_head'):
        raise UserError(
            '--bf16: RoIAlign, which model.roi_head uses, has no bfloat16 kernel: use --amp on a '
            "GPU, or float32; or model.backbone.trunk.dtype='bfloat16', which keeps the maps in "
            'float32'
        )
    if options.bf16:
        cfg.optim_wrapper.type = 'hstpeft.BFloat16OptimWrapper'
    if options.auto_scale_lr:
        if 'auto_scale_lr' not in cfg:
            raise UserError('--auto-scale-lr: the config has no auto_scale_lr.base_batch_size')
        cfg.auto_scale_lr.enable = True
    if options.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if options.dry_run:
        shorten(cfg)
        cfg.work_dir = str(Path(cfg.work_dir, 'dry_run'))
    if options.load_from:
        cfg.load_from = options.load_from
    if options.allow_new_head:
        guard = dict(type='hstpeft.CheckpointGuardHook', allow_new_head=True)
        others = [hook for hook in cfg.get('custom_hooks') or () if hook['type'] != guard['type']]
        cfg.custom_hooks = [guard, *others]
    if not isinstance(cfg.get('resume', False), bool):
        raise UserError(f'config: resume {cfg.resume!r} must be True or False')
    if cfg.get('resume') and options.resume is None:
        options.resume = cfg.load_from or 'auto'
    if options.dry_run and options.resume:
        raise UserError('--dry-run goes on from nothing: leave --resume out')


def resume_from(cfg: Config, choice: str | None) -> dict[str, Any] | None:
    """Let training go on from a checkpoint, in place.

    A process that torchrun started again goes on from the newest one, whatever was asked for.

    Args:
        cfg: Config of the run.
        choice: ``auto``: from the newest readable checkpoint of the work folder, or from none;
            ``must``: there must be one; None: start; else a checkpoint.

    Returns:
        What the newest checkpoint holds, if it is taken; it need not be read again.

    Raises:
        UserError: There are checkpoints, but none can be read; or there must be one.
    """
    newest = choice in ('auto', 'must') or restarted()
    found = latest_checkpoint(cfg.work_dir) if newest else None
    if found is not None:
        cfg.resume, cfg.load_from = True, str(found[0])
        print_log(f'--resume: going on from {found[0]}')
        return found[1]
    if choice == 'must':
        raise UserError(f'--resume must: there is no checkpoint in {cfg.work_dir}')
    if choice == 'auto':
        print_log(
            f'--resume: no checkpoint in {cfg.work_dir}, so training starts from scratch',
            level=logging.WARNING,
        )
    may_restart = int(os.environ.get('TORCHELASTIC_MAX_RESTARTS', 0)) > 0
    if may_restart and choice in (None, 'auto') and is_first_process(cfg.launcher):
        # Now and not when training starts: a restart must not find what is not of this run.
        set_aside(cfg.work_dir)
    cfg.resume = choice not in (None, 'auto')
    if cfg.resume:
        cfg.load_from = choice
    return None


def shorten(cfg: Config) -> None:
    """Leave one training iteration and one validation batch of a config, in place.

    A recipe of epochs becomes one of iterations: its schedule is still that of whole epochs.
    """
    cfg.train_cfg = dict(by_epoch=False, max_iters=1, val_interval=1)
    if cfg.get('val_dataloader') is not None:
        cfg.val_dataloader.num_batch_per_epoch = 1
    cfg.default_hooks.logger.update(interval=1, log_metric_by_epoch=False)
    cfg.default_hooks.checkpoint.update(interval=1, by_epoch=False)
    cfg.log_processor = {**(cfg.get('log_processor') or {}), 'by_epoch': False}


def main(arguments: list[str] | None = None) -> None:
    """Train."""
    options = parse_options(arguments)
    with one_line_errors('train.py'):
        cfg = load_config(options.config, options.cfg_options, options.safe_config)
        apply_options(cfg, options)
        with locked(cfg.work_dir) if is_first_process(cfg.launcher) else nullcontext():
            if options.dry_run and is_first_process(cfg.launcher):
                empty(cfg.work_dir)
            # In no variable, which would keep it in memory until training has ended.
            build_runner(
                cfg, LOADERS, resume_from(cfg, options.resume), options.trust_checkpoint
            ).train()
    end_process_group()


if __name__ == '__main__':
    main()
