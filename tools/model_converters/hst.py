"""Convert official HST checkpoints (AFeng-x/HST) to deltas, and back.

    python tools/model_converters/hst.py to-delta CONFIG OFFICIAL.pth OUT
    python tools/model_converters/hst.py to-official CONFIG DELTA OUT.pth

CONFIG names the trunk weights that the checkpoint was trained on
(`--cfg-options model.backbone.trunk.weights=FILE`).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor

from hstpeft.apis import init_model
from hstpeft.delta import check_state_dict, publishable, save_delta
from hstpeft.delta.official import TRUNK, join_hst, split_hst
from hstpeft.delta.state import frozen_trunk_tensors
from hstpeft.engine.checkpoint import describe
from hstpeft.engine.launch import OptionAction
from hstpeft.errors import UserError, one_line_errors


def to_delta(model: torch.nn.Module, official: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn an official checkpoint into the state dict of a model with the same trunk.

    Raises:
        UserError: The checkpoint's frozen tensors are not those of the model's trunk.
    """
    trunk, state = split_hst(official)
    for name, tensor in frozen_trunk_tensors(model.backbone).items():
        key = name.removeprefix('trunk.vit.')
        if key not in trunk or not torch.equal(trunk[key], tensor):
            raise UserError(
                f'{key} of the official checkpoint is not that of the trunk: give the weights it '
                'was trained on as model.backbone.trunk.weights'
            )
    own = model.state_dict()
    kept = {TRUNK + key: trunk[key] for key in trunk if TRUNK + key in own}
    extra = {'backbone._extra_state': own['backbone._extra_state']}
    state = {**state, **kept, **extra}
    check_state_dict(own, state, 'the official checkpoint')
    return state


def to_official(model: torch.nn.Module) -> dict[str, Tensor]:
    """Turn a model into an official checkpoint."""
    trunk = {key: p.detach() for key, p in model.backbone.trunk.vit.named_parameters()}
    return join_hst(trunk, model.state_dict())


def main(arguments: list[str] | None = None) -> None:
    """Convert one file."""
    parser = argparse.ArgumentParser(description='Convert official HST checkpoints.')
    parser.add_argument('direction', choices=['to-delta', 'to-official'])
    parser.add_argument('config', help='config of the model, with the trunk weights')
    parser.add_argument('source', type=Path, help='checkpoint to read')
    parser.add_argument('output', type=Path, help='file to write')
    parser.add_argument('--cfg-options', nargs='+', action=OptionAction, default={})
    options = parser.parse_args(arguments)
    with one_line_errors('hst.py'):
        if options.direction == 'to-official':
            model = init_model(options.config, options.source, 'cpu', options.cfg_options)
            options.output.parent.mkdir(parents=True, exist_ok=True)
            torch.save({'model': to_official(model)}, options.output)
        else:
            model = init_model(options.config, None, 'cpu', options.cfg_options)
            state = to_delta(model, read_official(options.source))
            save_delta(publishable({'state_dict': state}, **describe(state)), options.output)
    print(f'{options.output} ({options.output.stat().st_size:,} bytes)')


def read_official(path: Path) -> dict[str, Tensor]:
    """Read an official checkpoint's tensors; the EMA or optimiser beside them is left out."""
    if not path.is_file():
        raise UserError(f'checkpoint {path} does not exist')
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            raw = torch.load(path, map_location='cpu', weights_only=True)
        for key in ('state_dict', 'model'):
            raw = raw.get(key, raw) if isinstance(raw.get(key), dict) else raw
        return {key.removeprefix('module.'): value for key, value in raw.items()}
    except Exception as error:  # a damaged zip, pickle or tensor raises one of a dozen types
        raise UserError(f'checkpoint {path} cannot be read as tensors by name') from error


if __name__ == '__main__':
    main()
