"""Convert official ARC checkpoints (DavidYanAnDe/ARC), ViT and Swin, to deltas, and back.

    python tools/model_converters/arc.py to-delta CONFIG OFFICIAL.pth OUT
    python tools/model_converters/arc.py to-official CONFIG DELTA OUT.pth [--naming new]

CONFIG names the trunk weights that the checkpoint was trained on
(`--cfg-options model.backbone.trunk.weights=FILE`). Both namings of the official ViT are read;
`--naming` chooses the one to write: `adapter` of `ARC_ViT.py`, or `new` of `ARC_new.py`. A Swin is
written without the tables that the official code computes (relative_position_index, attn_mask):
load it there with strict=False.
"""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hstpeft.official import join_arc, split_arc
from tools.model_converters.convert import convert, make_parser


def main(arguments: list[str] | None = None) -> None:
    """Convert one file."""
    parser = make_parser('ARC')
    parser.add_argument('--naming', choices=['adapter', 'new'], default='adapter')
    options = parser.parse_args(arguments)
    join = functools.partial(join_arc, new=options.naming == 'new')
    convert('arc.py', options, split_arc, join)


if __name__ == '__main__':
    main()
