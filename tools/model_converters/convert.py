"""Convert between official checkpoints and deltas: what the converters of all systems share."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hstpeft.apis import init_model
from hstpeft.compat import EXTRA_STATE
from hstpeft.delta import check_state_dict, make_delta, save_delta
from hstpeft.delta.reading import open_source, read_torch
from hstpeft.delta.state import frozen_trunk_tensors
from hstpeft.delta.writing import write_file
from hstpeft.engine.launch import OptionAction, add_safe_config, add_trust
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
    add_trust(parser)
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
        if options.direction == 'to-official':
            model = trained_model(options)
            official = to_official(model, join)
            write_tensors({'model': official}, options.output)
        else:
            model = init_model(
                options.config, None, 'cpu', options.cfg_options, safe_config=options.safe_config
            )
            state = to_delta(model, read_official(options.source, options.trust_checkpoint), split)
            save_delta(make_delta({'state_dict': state}), options.output)
    print(f'{options.output} ({options.output.stat().st_size:,} bytes)')


def trained_model(options: argparse.Namespace) -> nn.Module:
    """Build the model of the options of `make_parser`, with the delta that is their source."""
    return init_model(
        options.config,
        options.source,
        'cpu',
        options.cfg_options,
        safe_config=options.safe_config,
        trust=options.trust_checkpoint,
    )


def to_delta(model: nn.Module, official: Mapping[str, Tensor], split: Split) -> dict[str, Tensor]:
    """Turn an official checkpoint into the state dict of a model with the same trunk.

    One that holds nothing frozen, but adapters and head, is taken to be of the model's trunk.

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
    frozen = {
        f'backbone.{name}'.removeprefix(prefix): tensor
        for name, tensor in frozen_trunk_tensors(model.backbone).items()
    }
    for key, tensor in frozen.items() if frozen.keys() & trunk.keys() else ():
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


def read_official(path: Path, trust: bool = False) -> dict[str, Tensor]:
    """Read an official checkpoint's tensors; the EMA or optimiser beside them is left out.

    Args:
        path: File to read.
        trust: The user vouches for the file: what it holds may be of any class, and may run.

    Raises:
        UserError: It is missing, damaged, holds more than plain data, or no tensors by name.
    """
    what = f'checkpoint {path}'
    with open_source(path, what) as file:
        raw = read_torch(file, what, [argparse.Namespace], trust)
    for key in ('state_dict', 'model'):
        raw = raw[key] if isinstance(raw, dict) and isinstance(raw.get(key), dict) else raw
    if not isinstance(raw, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in raw.items()
    ):
        raise UserError(f'{what} cannot be read as tensors by name: is it an official checkpoint?')
    return {key.removeprefix('module.'): value for key, value in raw.items()}


def write_tensors(content: dict[str, Any], output: Path) -> None:
    """Write tensors as torch does, atomically."""
    write_file(output, lambda file: torch.save(content, file))
