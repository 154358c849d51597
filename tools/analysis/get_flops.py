"""Count parameters and multiply-adds of a model, by part, attention included.

    python tools/analysis/get_flops.py CONFIG [--shape H W] [--out FILE.json]
        [--cfg-options KEY=VALUE ...]

Unit: MACs, one multiplication with its addition (2 FLOPs), of one image's forward pass. Counted are
matrix products (the two of the attention too) and convolutions; not counted are norms,
activations, softmax, element-wise sums, resizing, RoIAlign and NMS. Nothing is computed: the model
runs without memory (torch's meta device), so any size takes a second, and no weights are read.

`trunk` is what the bare trunk costs; `tuner` is what the backbone costs beyond that: adapters, side
network, and the trunk's own extra work on the tokens that a tuner adds. The heads of the second
stage of a detector count for as many proposals and detections as its test_cfg lets through.
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hstpeft.delta import owner_table
from hstpeft.engine.config import load_config
from hstpeft.engine.launch import OptionAction, add_safe_config
from hstpeft.engine.report import render_table
from hstpeft.engine.safe_io import safe_io
from hstpeft.errors import UserError, one_line_errors
from hstpeft.models.backbones import TunedBackbone

# Heads that read the maps of the neck, in the order in which a host runs them.
MAP_READERS = ('head', 'decode_head', 'rpn_head', 'bbox_head')
DEFAULT_SHAPES = {'mmseg': (512, 512), 'mmdet': (800, 1333)}
UNIT = '1 MAC = 1 multiplication with its addition = 2 FLOPs, in matrix products and convolutions'


class Count(NamedTuple):
    """What was counted.

    Attributes:
        shape: Height and width that the backbone read.
        parts: Part -> MACs.
        missing: Parts with parameters that were not run.
    """

    shape: tuple[int, int]
    parts: dict[str, int]
    missing: list[str]


def count_macs(run: Callable, *inputs: Any) -> tuple[int, Any]:
    """Count the multiply-adds of a function of meta tensors.

    Returns:
        MACs, and what the function returned.
    """
    # Of the fused attention kernels torch knows the cost of some only; plain products it knows.
    with (
        torch.device('meta'),
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        result = run(*inputs)
    return counter.get_total_flops() // 2, result


def count_model(cfg: Config, shape: tuple[int, int] | None = None) -> Count:
    """Count a config's model.

    Args:
        cfg: Its ``model`` may be of any host; the weights of its trunk are not read.
        shape: Height and width of the image, padded as the host's data preprocessor would. By
            default what is usual for the host; a classifier's is the size of its trunk.

    Raises:
        UserError: A part reads values, which the meta device does not have.
    """
    # torch's counter stumbles over a bare parameter that is given to a module and wants gradients.
    model = build(cfg).requires_grad_(False)
    shape = shape or default_shape(cfg, model)
    shape = padded(shape, getattr(model.data_preprocessor, 'pad_size_divisor', 1))
    image = torch.empty(1, 3, *shape, device='meta')
    try:
        return Count(shape, *count_parts(model, cfg, image))
    except RuntimeError as error:
        if 'meta' not in str(error):
            raise
        raise UserError(f'the model cannot be counted without running it: {error}') from error


def build(cfg: Config, backbone: dict | None = None) -> nn.Module:
    """Build a config's model without memory and weights, in evaluation mode.

    Args:
        cfg: A whole config.
        backbone: Keys of the backbone to change.
    """
    model_cfg = copy.deepcopy(cfg.model)
    for key, value in (backbone or {}).items():  # `update` would merge nested dicts
        model_cfg.backbone[key] = value
    if 'trunk' in model_cfg.backbone:
        model_cfg.backbone.trunk.weights = None
    with torch.device('meta'):
        return MODELS.build(model_cfg).eval()


def default_shape(cfg: Config, model: nn.Module) -> tuple[int, int]:
    """Return the height and width that a model is usually given."""
    scope = cfg.get('default_scope', 'mmpretrain')
    if scope in DEFAULT_SHAPES:
        return DEFAULT_SHAPES[scope]
    if not isinstance(model.backbone, TunedBackbone):
        return 224, 224
    trunk = model.backbone.trunk
    return tuple(n * size for n, size in zip(trunk.grid_size, trunk.patch_size, strict=True))


def padded(shape: tuple[int, int], divisor: int) -> tuple[int, int]:
    """Return a shape whose sides are multiples of a divisor."""
    return tuple(side + -side % divisor for side in shape)


def count_parts(
    model: nn.Module, cfg: Config, image: torch.Tensor
) -> tuple[dict[str, int], list[str]]:
    """Count the parts in the order in which they run.

    Returns:
        Part -> MACs, and the names of what was not counted.
    """
    parts: dict[str, int] = {}
    counted = {'backbone'}
    total, feats = count_macs(model.backbone, image)
    if isinstance(model.backbone, TunedBackbone):
        parts['trunk'] = count_trunk(model.backbone, cfg, image)
        parts['tuner'] = total - parts['trunk']
    else:
        parts['backbone'] = total
    for name in ('neck', *MAP_READERS):
        part = getattr(model, name, None)
        if isinstance(part, nn.Module) and not isinstance(part, nn.ModuleList):
            parts[name], output = count_macs(part, feats)
            feats = output if name == 'neck' else feats
            counted.add(name)
    if hasattr(model, 'roi_head'):
        found, missing = count_roi_head(model)
        parts.update(found)
        return parts, [*missing, *not_counted(model, {*counted, 'roi_head'})]
    return parts, not_counted(model, counted)


def not_counted(model: nn.Module, counted: set[str]) -> list[str]:
    """Name the children of a module that have parameters but are not in a set."""
    children = model.named_children()
    return [
        n for n, child in children if n not in counted and any(True for _ in child.parameters())
    ]


def count_trunk(backbone: TunedBackbone, cfg: Config, image: torch.Tensor) -> int:
    """Count the bare trunk up to the last output that the tuned backbone reads."""
    tuner, trunk = backbone.tuner, backbone.trunk
    last = max(tuner.tap_indices(trunk)) if tuner.strides else backbone.out_indices[-1]
    changes = dict(tuner=dict(type='hstpeft.FrozenTuner'), out_type='raw', out_indices=[last])
    # Norms are not counted, and raw outputs have none.
    bare = build(cfg, {**changes, 'out_norm': False}).backbone
    return count_macs(bare, image)[0]


def count_roi_head(model: nn.Module) -> tuple[dict[str, int], list[str]]:
    """Count the heads of the second stage, RoIAlign left out.

    Returns:
        Part -> MACs, and the names of what was not counted.
    """
    roi_head, test_cfg = model.roi_head, model.test_cfg
    numbers = {
        'bbox': (test_cfg.rpn.max_per_img, 'proposals'),
        'mask': (test_cfg.rcnn.max_per_img, 'detections'),
    }
    parts, counted = {}, set()
    for kind, (number, what) in numbers.items():
        head = getattr(roi_head, f'{kind}_head', None)
        if head is None:
            continue
        extractor = getattr(roi_head, f'{kind}_roi_extractor', None) or roi_head.bbox_roi_extractor
        # A cascade has one head per stage.
        heads = list(head) if isinstance(head, nn.ModuleList) else [head]
        extractors = list(extractor) if isinstance(extractor, nn.ModuleList) else [extractor]
        macs = 0
        for one, reader in zip(heads, extractors, strict=True):
            size = reader.roi_layers[0].output_size
            rois = torch.empty(number, reader.out_channels, *size, device='meta')
            macs += count_macs(one, rois)[0]
        parts[f'{kind}_head ({number} {what})'] = macs
        counted.add(f'{kind}_head')
    return parts, [f'roi_head.{name}' for name in not_counted(roi_head, counted)]


def show(count: Count, console: Console) -> None:
    """Print the parts with their shares."""
    table = Table('part', 'MACs', 'share')
    for column in table.columns[1:]:
        column.justify = 'right'
    total = sum(count.parts.values())
    for name, macs in [*count.parts.items(), ('all', total)]:
        table.add_row(name, short(macs), f'{100 * macs / max(total, 1):.2f} %')
    console.print(table)
    console.print('of one image of {} x {} pixels, forward; '.format(*count.shape) + UNIT)
    if count.missing:
        console.print(f'not counted: {", ".join(count.missing)}')


def short(number: int) -> str:
    """Write a number with four digits and a unit prefix."""
    for prefix, size in (('G', 1e9), ('M', 1e6), ('k', 1e3)):
        if number >= size:
            return f'{number / size:,.3f} {prefix}'
    return str(number)


def main(arguments: list[str] | None = None) -> Count:
    """Count the model of one config."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='height and width of the image; default: the size of the trunk (classification), '
        + ', '.join(f'{h} {w} ({host})' for host, (h, w) in DEFAULT_SHAPES.items()),
    )
    parser.add_argument('--out', type=Path, metavar='FILE.json', help='write the counts there')
    parser.add_argument('--cfg-options', nargs='+', action=OptionAction, default={})
    add_safe_config(parser)
    options = parser.parse_args(arguments)
    with one_line_errors('get_flops.py'), safe_io():
        cfg = load_config(options.config, options.cfg_options, options.safe_config)
        shape = tuple(options.shape) if options.shape else None
        if shape and min(shape) < 1:
            raise UserError(f'--shape {shape[0]} {shape[1]} must be positive')
        count = count_model(cfg, shape)
        model = build(cfg)
    console = Console(width=100, highlight=False)
    console.print(render_table(model))
    show(count, console)
    if options.out:
        owners = [dict(owner=o, trainable=free, all=size) for o, free, size in owner_table(model)]
        report = {**count._asdict(), 'unit': 'MACs', 'total': sum(count.parts.values())}
        report |= {'config': options.config, 'parameters': owners, 'torch': torch.__version__}
        options.out.write_text(json.dumps(report, indent=1) + '\n')
    return count


if __name__ == '__main__':
    main()
