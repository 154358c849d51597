"""Convert official checkpoints of Adapter+, Houlsby's and Pfeiffer's adapters, and back.

    python tools/model_converters/adapter_plus.py to-delta CONFIG OFFICIAL.ckpt OUT
    python tools/model_converters/adapter_plus.py to-official CONFIG DELTA OUT.pth

Official checkpoints (visinf/adapter_plus) hold adapters and head, and nothing that tells their
trunk: CONFIG must name the trunk weights that they were trained on, timm's orig_in21k for the
published ones (`--cfg-options model.backbone.trunk.weights=FILE`), and form, scale and activation.
They also hold settings as objects of a package (omegaconf): where that is installed, and for a file
of which you know that it is harmless, `--trust-checkpoint` reads it.
A written file is loaded there by `model.load_state_dict(torch.load(FILE)['model'], strict=False)`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hstpeft.official.adapter_plus import join_adapter_plus, split_adapter_plus
from tools.model_converters.convert import convert, make_parser


def main(arguments: list[str] | None = None) -> None:
    """Convert one file."""
    options = make_parser('Adapter+').parse_args(arguments)
    convert('adapter_plus.py', options, split_adapter_plus, join_adapter_plus)


if __name__ == '__main__':
    main()
