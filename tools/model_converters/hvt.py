"""Convert official HVT checkpoints (MonashAI/HVT) to deltas, and back.

    python tools/model_converters/hvt.py to-delta CONFIG OFFICIAL.pth OUT
    python tools/model_converters/hvt.py to-official CONFIG DELTA OUT.pth

CONFIG is that of the same model with the `full` tuner, e.g. a leaf of configs/hvt; it needs no
trunk weights, since the delta holds the whole trunk. `tools/delta.py merge` then writes a trunk
that other tuners can start from.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hstpeft.official import join_hvt, split_hvt
from tools.model_converters.convert import convert, make_parser


def main(arguments: list[str] | None = None) -> None:
    """Convert one file."""
    convert('hvt.py', make_parser('HVT').parse_args(arguments), split_hvt, join_hvt)


if __name__ == '__main__':
    main()
