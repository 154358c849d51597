"""Convert official HST checkpoints (AFeng-x/HST) to deltas, and back.

    python tools/model_converters/hst.py to-delta CONFIG OFFICIAL.pth OUT
    python tools/model_converters/hst.py to-official CONFIG DELTA OUT.pth

CONFIG names the trunk weights that the checkpoint was trained on
(`--cfg-options model.backbone.trunk.weights=FILE`).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hstpeft.official import join_hst, split_hst
from tools.model_converters.convert import convert, make_parser


def main(arguments: list[str] | None = None) -> None:
    """Convert one file."""
    convert('hst.py', make_parser('HST').parse_args(arguments), split_hst, join_hst)


if __name__ == '__main__':
    main()
