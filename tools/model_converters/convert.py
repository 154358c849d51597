"""Convert between official checkpoints and deltas: what the converters of all systems share."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from hstpeft.apis import init_model
from hstpeft.compat import EXTRA_STATE
from hstpeft.delta import check_state_dict, make_delta, save_delta
from hstpeft.delta.state import frozen_trunk_tensors
from hstpeft.engine.launch import OptionAction, add_safe_config, check_config
from hstpeft.errors import UserError, one_line_errors

Split = Callable[[Mapping[str, Tensor]], tuple[dict[str, Tensor], dict[str, Tensor]]]
"""Official tensors -> the whole trunk by its own names, and the rest by ours."""
Join = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], dict[str, Tensor]]
"""The whole trunk by its own names, and a model's state dict -> official tensors."""


def make_parser(system: str) -> argparse.ArgumentParser:
    """Make the command line of a converter; a system may add options of its own."""
    parser = argparse.ArgumentParser(description=f'Convert official {system} checkpoints.')
    parser.add_argument('direction', choices=['to-delta', 'to-official'])
    parser.add_argument('config', help='config of the model, with the trunk weights')
    parser.add_argument('source', type=Path, help='checkpoint to read')
    parser.add_argument('output', type=Path, help='file to write')
    parser.add_argument('--cfg-options', nargs='+', action=OptionAction, default={})
    add_safe_config(parser)
    return parser


def convert(tool: str, options: argparse.Namespace, split: Split, join: Join) -> None:
    """Convert one file.

    Args:
        tool: File name of the converter, for its error messages.
        options: Of `make_parser`.
        split: Reads the official names.
        join: Writes them; the inverse of ``split``.
    """
    with one_line_errors(tool):
        check_config(options)
        if options.direction == 'to-official':
            model = init_model(options.config, options.source, 'cpu', options.cfg_options)
            official = to_official(model, join)
            options.output.parent.mkdir(parents=True, exist_ok=True)
            torch.save({'model': official}, options.output)
        else:
            model = init_model(options.config, None, 'cpu', options.cfg_options)
            state = to_delta(model, read_official(options.source), split)
            save_delta(make_delta({'state_dict': state}), options.output)
    print(f'{options.output} ({options.output.stat().st_size:,} bytes)')


def to_delta(model: nn.Module, official: Mapping[str, Tensor], split: Split) -> dict[str, Tensor]:
    """Turn an official checkpoint into the state dict of a model with the same trunk.

    Raises:
        UserError: The checkpoint's frozen tensors are not those of the model's trunk.
    """
    trunk, state = split(official)
    prefix, own = trunk_prefix(model), model.state_dict()
    extra = sorted(trunk.keys() - model.backbone.trunk.net.state_dict().keys())
    if extra:
        raise UserError(
            f'{", ".join(extra[:5])} of the official checkpoint are not in the trunk: choose the '
            "config's trunk.arch (and arch_options) that the checkpoint was made for"
        )
    for name, tensor in frozen_trunk_tensors(model.backbone).items():
        key = f'backbone.{name}'.removeprefix(prefix)
        if key not in trunk or not torch.equal(trunk[key], tensor):
            raise UserError(
                f'{key} of the official checkpoint is not that of the trunk: give the weights it '
                'was trained on as model.backbone.trunk.weights'
            )
    kept = {prefix + key: trunk[key] for key in trunk if prefix + key in own}
    key = f'backbone.{EXTRA_STATE}'
    identity = {key: own[key]}
    state = {**state, **kept, **identity}
    check_state_dict(own, state, 'the official checkpoint')
    return state


def to_official(model: nn.Module, join: Join) -> dict[str, Tensor]:
    """Turn a model into an official checkpoint."""
    trunk = {key: p.detach() for key, p in model.backbone.trunk.net.named_parameters()}
    return join(trunk, model.state_dict())


def trunk_prefix(model: nn.Module) -> str:
    """Return what the names of the trunk's tensors begin with in a model's state dict."""
    trunk = model.backbone.trunk
    (name,) = (name for name, child in trunk.named_children() if child is trunk.net)
    return f'backbone.trunk.{name}.'


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
