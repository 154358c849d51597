"""What tools/train.py and tools/test.py share: from command-line options to a runner."""

import argparse
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from hstpeft.delta import load_checkpoint
from hstpeft.engine.checks.channels import check_channels
from hstpeft.engine.checks.paths import check_paths
from hstpeft.engine.distributed import init_process_group
from hstpeft.engine.runner import CheckedRunner
from hstpeft.errors import UserError


class OptionAction(DictAction):
    """``KEY=VALUE`` options; mmengine's own action drops the blanks of a plain value."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> None:
        """Put the options, with those given before, into the namespace."""
        super().__call__(parser, namespace, values, option_string)
        options = getattr(namespace, self.dest)
        for text in values:
            key, _, value = text.partition('=')
            plain = value.strip('\'"')
            is_text = isinstance(options[key], str) or ' ' in plain.strip()
            if is_text and not any(sign in value for sign in ',[('):
                options[key] = plain


def common_parser(description: str) -> argparse.ArgumentParser:
    """Make a parser with the options that every tool has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionAction,
        metavar='KEY=VALUE',
        help='override config keys, e.g. model.backbone.tuner.num_meta_tokens=2; '
        'lists as "key=[a,b]"',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher',
    )
    # torch's launchers may pass it; torchrun sets the environment variable instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser


def prepare(cfg: Config, options: argparse.Namespace) -> None:
    """Apply launcher, work folder, loader defaults and TensorBoard (if installed), in place."""
    os.environ.setdefault('LOCAL_RANK', str(options.local_rank))
    cfg.launcher = options.launcher
    default = Path('work_dirs', Path(options.config).stem)
    cfg.work_dir = options.work_dir or cfg.get('work_dir') or str(default)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(name) is not None:
            cfg[name].setdefault('pin_memory', torch.cuda.is_available())
    backends = (cfg.get('visualizer') or {}).get('vis_backends')
    if backends is not None and importlib.util.find_spec('tensorboard'):
        backends.append(dict(type='TensorboardVisBackend'))


def build_runner(cfg: Config, loaders: Sequence[str] = ()) -> Runner:
    """Start the process group if need be, and build the runner.

    Args:
        cfg: Config of the run.
        loaders: Data loaders whose paths are looked up before the model is built; those of other
            loaders are when the loader is.

    Raises:
        UserError: The work folder cannot be written, a path of the data does not exist, a config
            dict does not fit its class, or the heads do not fit the backbone.
    """
    check_paths(cfg, loaders)
    work_dir = Path(cfg.work_dir)
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--work-dir {work_dir} cannot be made: {error}') from error
    if not os.access(work_dir, os.W_OK):
        raise UserError(f'--work-dir {work_dir} is not writable')
    init_process_group(cfg.launcher)
    try:
        runner = CheckedRunner.from_cfg(cfg)
    except (KeyError, TypeError) as error:
        # mmengine's words for a misspelt type or argument of one of the hosts' classes.
        text = str(error)
        if 'registry' in text or 'unexpected keyword argument' in text:
            raise UserError(f'config: {text}') from error
        raise
    check_channels(runner.model)
    return runner


def check_readable(path: str) -> None:
    """Raise if a checkpoint cannot be read safely, before mmengine tries it unsafely.

    Raises:
        UserError: Names the file and the reason.
    """
    load_checkpoint(path)
