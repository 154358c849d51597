"""Convert official FacT checkpoints (JieShibo/PETL-ViT), TT and TK, to deltas, and back.

    python tools/model_converters/fact.py to-delta CONFIG OFFICIAL.pt OUT
    python tools/model_converters/fact.py to-official CONFIG DELTA OUT.pt

Official checkpoints hold factors and head, and nothing that tells their trunk: CONFIG must name
the trunk weights that they were trained on (`--cfg-options model.backbone.trunk.weights=FILE`), and
the scale of their data set. A written file has the tensors under ``model``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hstpeft.official.fact import join_fact, split_fact
from tools.model_converters.convert import convert, make_parser


def main(arguments: list[str] | None = None) -> None:
    """Convert one file."""
    convert('fact.py', make_parser('FacT').parse_args(arguments), split_fact, join_fact)


if __name__ == '__main__':
    main()
