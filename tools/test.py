"""Test a checkpoint or a delta.

python tools/test.py CONFIG CHECKPOINT [--out FILE.json] [--show-dir DIR] [--cfg-options KEY=VALUE ...]
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from mmengine.dist import is_main_process

from hstpeft.delta.writing import write_file
from hstpeft.engine import end_process_group
from hstpeft.engine.config import load_config
from hstpeft.engine.launch import add_trust, build_runner, common_parser, prepare
from hstpeft.errors import one_line_errors
from hstpeft.visualization import PicturesHook


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = common_parser('Test a checkpoint or a delta.')
    parser.add_argument('checkpoint', help='training checkpoint or delta')
    add_trust(parser)
    parser.add_argument('--out', metavar='FILE.json', help='write the metrics to this file')
    parser.add_argument('--show-dir', help='folder for a picture of every test image')
    return parser.parse_args(arguments)


def to_json(value: Any) -> Any:
    """Make metrics fit for JSON, which knows no nan (the IoU of an absent class) and no arrays."""
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        return to_json(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Test; returns the metrics."""
    options = parse_options(arguments)
    with one_line_errors('test.py'):
        cfg = load_config(options.config, options.cfg_options, options.safe_config)
        prepare(cfg, options)
        cfg.load_from, cfg.resume = options.checkpoint, False
        pictures = PicturesHook(options.show_dir) if options.show_dir else None
        runner = build_runner(cfg, ('test_dataloader',), trust=options.trust_checkpoint)
        if pictures is not None:
            runner.register_hook(pictures)
        metrics = runner.test()
        # Its DDP would hold the threads of the process group.
        del runner
        if options.out and is_main_process():
            text = json.dumps(to_json(metrics), indent=2, allow_nan=False)
            write_file(options.out, text + '\n')
    end_process_group()
    return metrics


if __name__ == '__main__':
    main()
