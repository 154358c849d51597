"""Test a checkpoint or a delta.

python tools/test.py CONFIG CHECKPOINT [--out FILE.json] [--cfg-options KEY=VALUE ...]
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.dist import is_main_process

from hstpeft.engine import end_process_group
from hstpeft.engine.config import load_config
from hstpeft.engine.launch import build_runner, check_readable, common_parser, prepare
from hstpeft.errors import one_line_errors


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = common_parser('Test a checkpoint or a delta.')
    parser.add_argument('checkpoint', help='training checkpoint or delta')
    parser.add_argument('--out', metavar='FILE.json', help='write the metrics to this file')
    parser.add_argument('--show-dir', help='folder for pictures of the predictions')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Test; returns the metrics."""
    options = parse_options(arguments)
    with one_line_errors('test.py'):
        cfg = load_config(options.config, options.cfg_options)
        prepare(cfg, options)
        check_readable(options.checkpoint)
        cfg.load_from, cfg.resume = options.checkpoint, False
        if options.show_dir:
            cfg.default_hooks.visualization = dict(
                type='VisualizationHook', enable=True, out_dir=options.show_dir
            )
        metrics = build_runner(cfg).test()
    if options.out and is_main_process():
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        Path(options.out).write_text(json.dumps(metrics, indent=2, default=float) + '\n')
    end_process_group()
    return metrics


if __name__ == '__main__':
    main()
