"""What tools/train.py and tools/test.py share: from command-line options to a runner."""

import argparse
import ast
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

from hstpeft.delta import load_checkpoint
from hstpeft.delta.writing import check_writable
from hstpeft.engine.checks.building import one_line_until
from hstpeft.engine.checks.model import check_model
from hstpeft.engine.checks.parts import LOADERS
from hstpeft.engine.checks.paths import check_paths
from hstpeft.engine.checks.values import check_values
from hstpeft.engine.distributed import TIMEOUT, init_process_group
from hstpeft.engine.faults.lost import lost_process_explained
from hstpeft.engine.resume.settings import keep_seed
from hstpeft.engine.runner import CheckedRunner
from hstpeft.engine.safe_io import safe_io


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
        for text in values:
            key, sign, value = text.partition('=')
            if not (key and sign):
                parser.error(f'{option_string} {text!r} is no KEY=VALUE: write KEY=VALUE')
            try:
                super().__call__(parser, namespace, [text], option_string)
            except (AssertionError, RecursionError):  # brackets that do not match
                parser.error(f'{option_string} {text!r}: {value} is no value: write lists as [a,b]')
            options = getattr(namespace, self.dest)
            options[key] = _parsed(value, options[key])


def _parsed(value: str, parsed: Any) -> Any:
    """Read a value as it is written, where mmengine drops blanks and splits what is quoted."""
    if any(quote in value for quote in '\'"'):
        try:
            return ast.literal_eval(value.strip())
        except (SyntaxError, ValueError):
            pass
    plain = value.strip('\'"')
    is_text = isinstance(parsed, str) or ' ' in plain.strip()
    return plain if is_text and not any(sign in value for sign in ',[(') else parsed


def common_parser(description: str) -> argparse.ArgumentParser:
    """Make a parser with the options that every tool has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file')
    add_safe_config(parser)
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


def add_safe_config(parser: argparse.ArgumentParser) -> None:
    """Give a parser ``--safe-config``, for `load_config` and `apis.init_model`."""
    parser.add_argument(
        '--safe-config',
        action='store_true',
        help='refuse a config that does more than set values: for configs of strangers',
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Give a parser ``--trust-checkpoint``, for whatever reads the checkpoint."""
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='vouch for the checkpoint named here: what it holds may run as a program',
    )


def is_first_process(launcher: str) -> bool:
    """Whether this process has rank 0, before there is a process group."""
    name = {'pytorch': 'RANK', 'slurm': 'SLURM_PROCID', 'mpi': 'OMPI_COMM_WORLD_RANK'}
    return launcher == 'none' or int(os.environ.get(name[launcher], 0)) == 0


def prepare(cfg: Config, options: argparse.Namespace) -> None:
    """Apply launcher, work folder, loader defaults and TensorBoard (if installed), in place."""
    os.environ.setdefault('LOCAL_RANK', str(options.local_rank))
    cfg.launcher = options.launcher
    default = Path('work_dirs', Path(options.config).stem)
    cfg.work_dir = options.work_dir or cfg.get('work_dir') or str(default)
    for name in LOADERS:
        if isinstance(cfg.get(name), dict):
            cfg[name].setdefault('pin_memory', torch.cuda.is_available())
    visualizer = cfg.get('visualizer')
    backends = visualizer.get('vis_backends') if isinstance(visualizer, dict) else None
    board = dict(type='TensorboardVisBackend')
    # The config that a run has written down has it already.
    known = backends is None or any(backend.get('type') == board['type'] for backend in backends)
    if not known and importlib.util.find_spec('tensorboard'):
        backends.append(board)


@lost_process_explained()
def build_runner(
    cfg: Config,
    loaders: Sequence[str] = (),
    checkpoint: dict[str, Any] | None = None,
    trust: bool = False,
) -> Runner:
    """Check what a config names, start the process group if need be, and build the runner.

    Args:
        cfg: Config of the run.
        loaders: The data loaders that the run uses: their paths are looked up first of all.
        checkpoint: What ``cfg.load_from`` holds, if it has been read; else it is read here. The
            runner takes it over, so that the file is read once.
        trust: The user vouches for ``cfg.load_from``.

    Raises:
        UserError: A key or value of the config is wrong, a path of the data does not exist, the
            checkpoint cannot be read, the work folder cannot be written, a part cannot be built, or
            the heads do not fit the backbone's maps.
        LostProcessError: Another process of the job died before all had found each other.
    """
    with safe_io():  # the checks look types up
        check_values(cfg)
        check_paths(cfg, loaders)
    if checkpoint is None and cfg.get('load_from'):
        checkpoint = load_checkpoint(cfg.load_from, trust)
    check_writable(cfg.work_dir, '--work-dir')
    if checkpoint is not None and cfg.get('resume'):
        keep_seed(checkpoint, cfg)
    dist_cfg = (cfg.get('env_cfg') or {}).get('dist_cfg') or {}
    init_process_group(cfg.launcher, dist_cfg.get('timeout', TIMEOUT))
    with one_line_until(lambda: False, cfg, lambda: None):
        runner = CheckedRunner.from_cfg(cfg)
    check_model(runner.model)
    if checkpoint is not None:
        runner.checkpoints[cfg.load_from] = checkpoint
    return runner
