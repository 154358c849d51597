"""Writes reference cases of ARC and of memory tokens, computed by the literal forms."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.oracle import recipe
from hstpeft.oracle.literal import arc, memory_tokens
from hstpeft.oracle.literal.arc_shapes import POSITIONS, arc_swin_shapes, arc_vit_shapes
from tests.support.models import draw, images

VIT = dict(
    width=32, heads=2, depth=3, mlp=48, dims=5, size=(32, 32), patch=8, mode='ARC', classes=4
)
SWIN = dict(
    width=16, depths=(2, 2), heads=(2, 4), window=4, size=(32, 32), patch=4, dims=3, classes=4,
    mlp_ratio=2.0, drop_path=0.0,
)  # fmt: skip
MEMORY = dict(
    width=32, heads=2, depth=3, memory=5, size=(32, 32), patch=8, classes=4, mode='prop',
    pool='token', mlp_ratio=2.0, train_cls_token=True,
)  # fmt: skip


def write_vit_case(folder: Path, **options: Any) -> Path:
    """Write a case of ARC on a ViT."""
    o = {**VIT, **options}
    positions = POSITIONS if o['mode'] == 'ARC' else ('attention',)
    grid = tuple(n // o['patch'] for n in o['size'])
    shapes = arc_vit_shapes(
        o['width'], o['depth'], grid, o['patch'], o['classes'], o['dims'], o['mlp'], positions
    )
    arguments = {
        'model': 'ARCVisionTransformer (Model/ARC_ViT.py)',
        'tuning mode': o['mode'],
        'hidden size': o['width'],
        'heads': o['heads'],
        'layers': o['depth'],
        'mlp size': o['mlp'],
        'adapter_dim': o['dims'],
        'image size': image_size(o),
        'patch size': o['patch'],
        'classes': o['classes'],
        'all dropout': o.get('dropout', 0.0),
    }
    weights = draw(shapes, o.get('seed', 7))
    net = arc.LiteralARC(weights, arc.ARCOptions(o['heads']))
    return write(
        folder, 'arc', o, arguments, shapes, net, arc.is_trainable,
        lambda outputs: {'layer0': outputs[0], 'encoded': outputs[-1]},
    )  # fmt: skip


def write_swin_case(folder: Path, **options: Any) -> Path:
    """Write a case of ARC on a Swin."""
    o = {**SWIN, **options}
    grid = tuple(n // o['patch'] for n in o['size'])
    shapes = arc_swin_shapes(
        o['width'], o['depths'], o['heads'], grid, o['patch'], o['window'], o['classes'], o['dims'],
        o['mlp_ratio'],
    )  # fmt: skip
    arguments = {
        'model': 'SwinTransformer (Model/ARC_swin_b.py)',
        'tuning mode': 'ARC',
        'embed width': o['width'],
        'depths': o['depths'],
        'heads': o['heads'],
        'window': o['window'],
        'image size': image_size(o),
        'patch size': o['patch'],
        'svd_dim': o['dims'],
        'classes': o['classes'],
        'mlp ratio': o['mlp_ratio'],
        'qkv bias': True,
        'drop path': o['drop_path'],
    }
    weights = draw(shapes, o.get('seed', 7))
    net = arc.LiteralARC(weights, arc.ARCOptions(o['heads'], o['window']))

    def name_stages(outputs: list[Tensor]) -> dict[str, Tensor]:
        """Name the stages; officially, a stage ends with its patch merging."""
        merged = {}
        for stage, x in enumerate(outputs[:-1]):
            sides = tuple(n // 2**stage for n in grid)
            own = {key: getattr(net, name) for key, name in net.names.items()}
            x, _ = arc.merge_patches(own, f'layers.{stage}.downsample', x, sides)
            merged[f'stage{stage}'] = x
        return {**merged, f'stage{len(outputs) - 1}': outputs[-1]}

    return write(folder, 'arc', o, arguments, shapes, net, arc.is_trainable, name_stages)


def write_memory_case(folder: Path, **options: Any) -> Path:
    """Write a case of learnable memory tokens."""
    o = {**MEMORY, **options}
    grid = tuple(n // o['patch'] for n in o['size'])
    shapes = memory_tokens.memory_tokens_shapes(
        o['width'], o['depth'], grid, o['patch'], o['classes'], o['memory'], o['mode'], o['pool'],
        o['mlp_ratio'],
    )  # fmt: skip
    arguments = {
        'model': 'VisionTransformer of the modified timm (0.8.12dev0)',
        'mem_type': o['mode'],
        'add_mem_num': o['memory'],
        'width': o['width'],
        'heads': o['heads'],
        'depth': o['depth'],
        'image size': image_size(o),
        'patch size': o['patch'],
        'classes': o['classes'],
        'global_pool': o['pool'],
    }
    net = memory_tokens.LiteralMemoryTokens(
        draw(shapes, o.get('seed', 7)),
        memory_tokens.MemoryTokensOptions(o['heads'], o['mode'], o['pool']),
    )
    return write(
        folder, 'hma', o, arguments, shapes, net,
        lambda key: memory_tokens.is_trainable(key) and (o['train_cls_token'] or key != 'cls_token'),
        lambda outputs: {'block0': outputs[0], 'tokens': outputs[-1]},
    )  # fmt: skip


def image_size(o: Mapping[str, Any]) -> int | list[int]:
    """Tell the image size as the official arguments do."""
    return o['size'][0] if o['size'][0] == o['size'][1] else list(o['size'])


def write(
    folder: Path,
    system: str,
    o: Mapping[str, Any],
    arguments: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    net: nn.Module,
    is_trainable: Callable[[str], bool],
    name_outputs: Callable[[list[Tensor]], dict[str, Tensor]],
) -> Path:
    """Run a literal form in float64 and write what came out; returns the path of the JSON."""
    seed, labels, name = o.get('seed', 7), o.get('labels', (0, 2, 1)), o.get('name', 'made')
    shape = (len(labels or [0]), 3, *o['size'])
    net = net.double().train(o.get('run', 'eval') == 'train')
    outputs, logits = net(images(*shape, seed=seed).double())
    arrays = {**name_outputs(outputs), 'logits': logits}
    trained = [key for key in shapes if is_trainable(key)]
    meta = dict(
        system=system, case=name, mode=o.get('run', 'eval'), seed=seed, inputs={'input': shape},
        labels=list(labels) if labels else None, arguments=arguments,
        parameters=[[key, shape, key in trained] for key, shape in shapes.items()], buffers=[],
        trainable_parameters=sum(math.prod(shapes[key]) for key in trained),
        gradient_keys=[], gradient_keys_without_gradient=[],
        gradient_keys_dominated_by_rounding=[],
    )  # fmt: skip
    if labels:
        arrays['loss'] = F.cross_entropy(logits, torch.tensor(labels))
        arrays['loss'].backward()
        meta['gradient_keys'] = trained
        arrays.update(gradient_arrays({key: getattr(net, net.names[key]) for key in trained}, seed))
    path = folder / system / f'{name}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(meta))
    plain = {key: value.detach().float().numpy() for key, value in arrays.items()}
    np.savez(path.with_suffix('.npz'), **plain, logits_float64=logits.detach().numpy())
    return path


def gradient_arrays(trained: Mapping[str, nn.Parameter], seed: int) -> dict[str, Tensor]:
    """Make the three numbers of each gradient, and the first and last gradient in full."""
    gradients = {key: parameter.grad for key, parameter in trained.items()}
    probes = [
        (gradient * torch.from_numpy(recipe.noise(f'probe:{key}', gradient.shape, seed))).sum()
        for key, gradient in gradients.items()
    ]
    arrays = {
        'grad_l2': torch.stack([gradient.norm() for gradient in gradients.values()]),
        'grad_sum': torch.stack([gradient.sum() for gradient in gradients.values()]),
        'grad_probe': torch.stack(probes),
    }
    full = (
        next(iter(gradients)),
        'head.bias' if 'head.bias' in gradients else 'head_mlp.head.bias',
    )
    return {**arrays, **{f'grad/{key}': gradients[key] for key in full}}
