"""Convert official SA2VP checkpoints (tommy-xq/SA2VP), ViT and Swin, to deltas, and back.

    python tools/model_converters/sa2vp.py to-delta CONFIG OFFICIAL.pth OUT
    python tools/model_converters/sa2vp.py to-official CONFIG DELTA OUT.pth

CONFIG names the trunk weights that the checkpoint was trained on
(`--cfg-options model.backbone.trunk.weights=FILE`). The frozen cross-attention weights of an
official checkpoint repeat the trunk's: they are left out, and written again on the way back. Where
they differ, the config must keep them (`model.backbone.tuner.tie_cross_attention=False`). Nothing
in a checkpoint tells plain from accelerated, the blocks that exchange, or the mixing weight: they
are the config's. A Swin's masks and position indices are not written; the official code makes them
anew.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from torch import Tensor

from hstpeft.engine.config import load_config
from hstpeft.official import join_sa2vp, split_sa2vp
from tools.model_converters.convert import convert, make_parser


def main(arguments: list[str] | None = None) -> None:
    """Convert one file."""
    options = make_parser('SA2VP').parse_args(arguments)

    def split(official: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        config = load_config(options.config, options.cfg_options)
        tied = config.model.backbone.tuner.get('tie_cross_attention', True)
        return split_sa2vp(official, tied)

    convert('sa2vp.py', options, split, join_sa2vp)


if __name__ == '__main__':
    main()
