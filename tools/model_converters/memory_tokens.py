"""Convert official checkpoints with learnable memory tokens (HMA's modified timm), and back.

    python tools/model_converters/memory_tokens.py to-delta CONFIG OFFICIAL.pth OUT
    python tools/model_converters/memory_tokens.py to-official CONFIG DELTA OUT.pth

CONFIG names the trunk weights that the checkpoint was trained on
(`--cfg-options model.backbone.trunk.weights=FILE`).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hstpeft.official import join_memory_tokens, split_memory_tokens
from tools.model_converters.convert import convert, make_parser


def main(arguments: list[str] | None = None) -> None:
    """Convert one file."""
    options = make_parser('memory token').parse_args(arguments)
    convert('memory_tokens.py', options, split_memory_tokens, join_memory_tokens)


if __name__ == '__main__':
    main()
