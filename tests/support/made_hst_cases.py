"""Writes reference cases as the official code would, computed by the literal form."""

import json
import math
from pathlib import Path

import numpy as np
import torch

from hstpeft.oracle import recipe
from hstpeft.oracle.literal.hst import HSTOptions, LiteralHST, is_trainable
from hstpeft.oracle.literal.shapes import hst_shapes
from tests.support.models import draw, images

DEFAULTS = dict(
    width=32, depth=4, heads=2, size=(32, 32), patch=8, dims=(8, 12, 12, 16),
    side_heads=(2, 2, 3, 4), depths=(1, 1, 1, 1), meta=1, classes=3, mlp_ratio=4.0,
)  # fmt: skip


def write_case(folder: Path, mode='eval', seed=7, labels=(0, 2, 1), name='made', **options) -> Path:
    """Write a case as the official code would, computed by the literal form."""
    o = {**DEFAULTS, **options}
    grid = tuple(n // o['patch'] for n in o['size'])
    shapes = hst_shapes(
        o['width'], o['depth'], grid, o['patch'], o['dims'], o['depths'], o['classes'], o['meta'],
        o['mlp_ratio'],
    )  # fmt: skip
    buffers = {
        key: shape
        for key, shape in shapes.items()
        if key.split('.')[-1].startswith(('running', 'num_b'))
    }
    parameters = {key: shape for key, shape in shapes.items() if key not in buffers}
    net = LiteralHST(
        draw(shapes, seed), HSTOptions(o['heads'], o['side_heads'], o['depths'])
    ).double()
    batch = len(labels or [0])
    shape = (batch, 3, *o['size'])
    maps, logits = net.train(mode == 'train')(images(*shape, seed=seed).double())
    arrays = {'logits': logits, 'pooled': maps[-1].mean(dim=(2, 3))}
    arrays.update({f'stage{s}': x.flatten(2).transpose(1, 2) for s, x in enumerate(maps, 1)})
    meta = dict(
        system='hst', case=name, mode=mode, seed=seed, inputs={'input': shape},
        labels=list(labels) if labels else None, arguments=arguments(o),
        parameters=[[key, shape, is_trainable(key)] for key, shape in parameters.items()],
        buffers=[[k, s, 'reference' if s else 'zero'] for k, s in buffers.items()],
        trainable_parameters=sum(math.prod(s) for k, s in parameters.items() if is_trainable(k)),
        gradient_keys=[], gradient_keys_without_gradient=[],
        gradient_keys_dominated_by_rounding=[],
    )  # fmt: skip
    if mode == 'train':
        kept = [key for key in buffers if 'running_' in key]
        arrays.update({f'after/{key}': getattr(net, net.names[key]) for key in kept})
    if labels:
        arrays['loss'] = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
        arrays['loss'].backward()
        add_gradients(meta, arrays, net)
    path = folder / 'hst' / f'{name}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(meta))
    plain = {key: torch.as_tensor(value).detach().float().numpy() for key, value in arrays.items()}
    np.savez(path.with_suffix('.npz'), **plain, logits_float64=logits.detach().numpy())
    return path


def arguments(o: dict) -> dict:
    return {
        'model': 'ViT_HSN',
        'image size': o['size'][0] if o['size'][0] == o['size'][1] else list(o['size']),
        'patch size': o['patch'],
        'backbone width': o['width'],
        'backbone depth': o['depth'],
        'backbone heads': o['heads'],
        'mlp ratio': o['mlp_ratio'],
        'qkv bias': True,
        'classes': o['classes'],
        'side widths per stage (m_embed_dims)': o['dims'],
        'side cross-attention heads per stage (m_c_num_heads)': o['side_heads'],
        'side blocks per stage (m_depths)': o['depths'],
        'last backbone block of each stage (block_indices)': [
            sum(o['depths'][: s + 1]) - 1 for s in range(4)
        ],
        'meta tokens per block (metaG_num)': o['meta'],
        'dropout, attention dropout, drop path': o.get('rate', 0.0),
    }


def add_gradients(meta: dict, arrays: dict, net: LiteralHST) -> None:
    keys = [key for key, _, trainable in meta['parameters'] if trainable]
    found = {key: getattr(net, net.names[key]) for key in keys}
    none = [key for key in keys if found[key].grad is None]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in found.values()]
    sizes = torch.stack([g.norm() for g in gradients])
    noise = [
        torch.from_numpy(recipe.noise(f'probe:{k}', g.shape, meta['seed']))
        for k, g in zip(keys, gradients, strict=True)
    ]
    meta['gradient_keys'], meta['gradient_keys_without_gradient'] = keys, none
    meta['gradient_keys_dominated_by_rounding'] = [
        key for key, size in zip(keys, sizes, strict=True)
        if size < 1e-5 * sizes.max() and key not in none
    ]  # fmt: skip
    arrays['grad_l2'], arrays['grad_sum'] = sizes, torch.stack([g.sum() for g in gradients])
    arrays['grad_probe'] = torch.stack(
        [(g * n).sum() for g, n in zip(gradients, noise, strict=True)]
    )
    for key in ('m_embeddings.0', 'T_Bridge_4.weight'):
        arrays[f'grad/{key}'] = found[key].grad
