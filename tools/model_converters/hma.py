"""Convert official HMA checkpoints (qiuzh20/HMA, its ViT pipeline) to deltas, and back.

    python tools/model_converters/hma.py to-delta CONFIG OFFICIAL.pth OUT [--own-trunk FILE]
    python tools/model_converters/hma.py to-official CONFIG DELTA OUT.pth

CONFIG names the trunk weights that the checkpoint was trained on
(`--cfg-options model.backbone.trunk.weights=FILE`). Officially the class token is trained even when
the encoder is frozen. Where the config's tuner does not train what the checkpoint did,
`--own-trunk FILE` writes its encoder to a file, which then is the trunk of the delta.

Left out are the encoders' own classifiers, which nothing reads. Official checkpoints do not know
the classes of the queue's rows: they become -1 (pictures show them as unknown).
"""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor, nn

from hstpeft.apis import init_model
from hstpeft.delta import make_delta, save_delta
from hstpeft.errors import UserError, one_line_errors
from hstpeft.official.hma import ENCODERS, join_hma, split_hma
from tools.model_converters.convert import (
    make_parser,
    read_official,
    to_delta,
    trained_model,
    write_tensors,
)


def to_official(model: nn.Module) -> dict[str, Tensor]:
    """Turn a model into an official checkpoint."""
    encoders = {
        f'{part}{name}': p.detach()
        for part in ENCODERS
        if (encoder := getattr(model, part.removesuffix('.'), None)) is not None
        for name, p in encoder.named_parameters()
    }
    dropout = any(m.p > 0 for m in model.head.modules() if isinstance(m, nn.Dropout))
    return join_hma(encoders, model.state_dict(), dropout)


def split_for(model: nn.Module, official: dict[str, Tensor]) -> tuple[dict, dict]:
    """Split an official checkpoint; of a momentum encoder, keep what the model has of one."""
    trunk, rest = split_hma(official)
    own, copied = model.state_dict(), 'momentum_backbone.'
    if any(key.startswith(copied) for key in own):
        for key in [key for key in rest if key.startswith(copied) and key not in own]:
            twin = trunk.get(key.removeprefix(f'{copied}trunk.vit.'))
            if twin is not None and torch.equal(rest[key], twin):
                del rest[key]
    return trunk, rest


def write_trunk(official: dict[str, Tensor], output: Path) -> None:
    """Write the encoder of an official checkpoint as weights for a trunk.

    Raises:
        UserError: There is no encoder in it.
    """
    trunk, _ = split_hma(official)
    if not trunk:
        raise UserError('the checkpoint holds no encoder: it is not one of the ViT pipeline')
    write_tensors(trunk, output)


def main(arguments: list[str] | None = None) -> None:
    """Convert one file."""
    parser = make_parser('HMA')
    parser.add_argument(
        '--own-trunk',
        type=Path,
        metavar='FILE',
        help="to-delta: write the checkpoint's encoder to FILE and take it as the trunk's weights",
    )
    options = parser.parse_args(arguments)
    with one_line_errors('hma.py'):
        if options.direction == 'to-official':
            model = trained_model(options)
            official = to_official(model)
            write_tensors({'model': official}, options.output)
        else:
            official = read_official(options.source, options.trust_checkpoint)
            overrides = dict(options.cfg_options)
            if options.own_trunk:
                write_trunk(official, options.own_trunk)
                overrides['model.backbone.trunk.weights'] = str(options.own_trunk)
            model = init_model(
                options.config, None, 'cpu', overrides, safe_config=options.safe_config
            )
            state = to_delta(model, official, functools.partial(split_for, model))
            save_delta(make_delta({'state_dict': state}), options.output)
    print(f'{options.output} ({options.output.stat().st_size:,} bytes)')


if __name__ == '__main__':
    main()
