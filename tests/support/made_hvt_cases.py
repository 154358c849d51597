"""Writes HVT reference cases as the official code would, computed by the literal form."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hstpeft.oracle import recipe
from hstpeft.oracle.literal.hvt import HVTOptions, LiteralHVT, hvt_shapes
from tests.support.models import draw, images

DEFAULTS = dict(
    width=32, depth=4, heads=2, size=(32, 32), patch=8, pool_width=2, kernel=3, stride=2, classes=3,
    mlp_ratio=4, qkv_bias=True,
)  # fmt: skip


def write_hvt_case(
    folder: Path, mode='eval', seed=7, labels=(0, 2, 1), name='made', **options
) -> Path:
    """Write a case; without labels it has no loss and no gradients."""
    o = {**DEFAULTS, **options}
    shapes = hvt_shapes(
        o['width'], o['depth'], tuple(n // o['patch'] for n in o['size']), o['patch'],
        o['classes'], o['pool_width'], o['kernel'], o['stride'], o['mlp_ratio'], o['qkv_bias'],
    )  # fmt: skip
    net = LiteralHVT(draw(shapes, seed), HVTOptions(o['heads'], o['kernel'], o['stride'])).double()
    shape = (len(labels or [0]), 3, *o['size'])
    blocks, feature, logits = net(images(*shape, seed=seed).double())
    arrays = {'block0': blocks[0], 'last_block': blocks[-1], 'feature': feature, 'logits': logits}
    arrays['sequence_lengths'] = torch.tensor([x.shape[1] for x in blocks])
    meta = dict(
        system='hvt', case=name, mode=mode, seed=seed, inputs={'input': shape},
        labels=list(labels) if labels else None, arguments=arguments(o),
        parameters=[[key, shape, True] for key, shape in shapes.items()], buffers=[],
        trainable_parameters=sum(math.prod(shape) for shape in shapes.values()),
        gradient_keys=[], gradient_keys_without_gradient=[],
        gradient_keys_dominated_by_rounding=[],
    )  # fmt: skip
    if labels:
        arrays['loss'] = F.cross_entropy(logits, torch.tensor(labels))
        arrays['loss'].backward()
        add_gradients(meta, arrays, net)
    path = folder / 'hvt' / f'{name}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(meta))
    plain = {key: value.detach().float().numpy() for key, value in arrays.items()}
    np.savez(path.with_suffix('.npz'), **plain, logits_float64=logits.detach().numpy())
    return path


def arguments(o: dict) -> dict:
    return {
        'model': 'HVT',
        'width': o['width'],
        'heads': o['heads'],
        'head size': o['width'] // o['heads'],
        'blocks': o['depth'],
        'image size': o['size'][0] if o['size'][0] == o['size'][1] else list(o['size']),
        'patch size': o['patch'],
        'pool_kernel_size': o['kernel'],
        'pool stride (constant)': o['stride'],
        'pool_block_width': o['pool_width'],
        'classes': o['classes'],
        'mlp ratio': o['mlp_ratio'],
        'qkv bias': o['qkv_bias'],
    }


def add_gradients(meta: dict, arrays: dict[str, Tensor], net: LiteralHVT) -> None:
    gradients = {key: getattr(net, own).grad for key, own in net.names.items()}
    sums = {'grad_l2': [], 'grad_sum': [], 'grad_probe': []}
    for key, gradient in gradients.items():
        noise = torch.from_numpy(recipe.noise(f'probe:{key}', gradient.shape, meta['seed']))
        sums['grad_l2'].append(gradient.norm())
        sums['grad_sum'].append(gradient.sum())
        sums['grad_probe'].append((gradient * noise).sum())
    meta['gradient_keys'] = list(gradients)
    arrays.update({name: torch.stack(values) for name, values in sums.items()})
    for key in ('pos_embed', 'blocks.0.norm1.weight', 'head.bias'):
        arrays[f'grad/{key}'] = gradients[key]
