"""Convert official RepAdapter checkpoints (luogen1996/RepAdapter), ViT and Swin, and back.

    python tools/model_converters/repadapter.py to-delta CONFIG OFFICIAL.pt OUT
    python tools/model_converters/repadapter.py to-official CONFIG DELTA OUT.pt

Official checkpoints hold adapters and head, and nothing that tells their trunk: CONFIG must name
the trunk weights that they were trained on (`--cfg-options model.backbone.trunk.weights=FILE`), and
the scale of their data set. A written file has the tensors under ``model``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hstpeft.official.repadapter import join_repadapter, split_repadapter
from tools.model_converters.convert import convert, make_parser


def main(arguments: list[str] | None = None) -> None:
    """Convert one file."""
    options = make_parser('RepAdapter').parse_args(arguments)
    convert('repadapter.py', options, split_repadapter, join_repadapter)


if __name__ == '__main__':
    main()
