"""Writes SA2VP reference cases as the official code would, computed by the literal form."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from hstpeft.official.sa2vp import frozen_copies
from hstpeft.oracle import recipe
from hstpeft.oracle.literal.sa2vp import LiteralSA2VP, SA2VPOptions, is_trainable, sa2vp_vit_shapes
from hstpeft.oracle.literal.sa2vp_swin import LiteralSA2VPSwin, SA2VPSwinOptions, sa2vp_swin_shapes
from tests.support.models import images

VIT = dict(
    width=32, depth=3, heads=2, mlp=64, grid=(4, 4), patch=8, inner=4, weight=0.1, exchange=(0, 2),
    deep=(2,), version='plain', tied=True, classes=4,
)  # fmt: skip
SWIN = dict(
    width=8, depths=(1, 2, 7, 1), heads=(1, 2, 2, 4), window=2, size=32, patch=2, inner=3,
    weight=0.5, tied=True, classes=4, drop_path=0.0,
)  # fmt: skip
FULL_VIT = ('vit_base.transformer.embeddings.ppt', 'class_head.weight')
FULL_SWIN = ('vit_base.patch_embed.deep_ppt', 'class_head.weight')


def write_vit_case(folder: Path, mode='eval', seed=31, labels=(1, 3, 0), name='made', **options):
    """Write a case of SA2VP on a ViT; returns its path."""
    o = {**VIT, **options}
    shapes = sa2vp_vit_shapes(
        o['width'], o['depth'], o['grid'], o['patch'], o['inner'], len(o['deep']), o['classes'],
        o['mlp'],
    )  # fmt: skip
    accelerated = o['version'] == 'accelerated'
    literal_options = SA2VPOptions(
        o['heads'], o['grid'], accelerated, o['exchange'], o['deep'], o['weight']
    )
    heads = 1 if accelerated else o['heads']
    size = [n * o['patch'] for n in o['grid']]
    arguments = {
        'model': f'Dual_model over vit_tinypara{"_acc" * accelerated}.VisionTransformer',
        'version': o['version'],
        'hidden size': o['width'],
        'heads': o['heads'],
        'mlp size': o['mlp'],
        'layers': o['depth'],
        'image size': size[0] if size[0] == size[1] else size,
        'patch size': o['patch'],
        'grid': o['grid'],
        'inter_dim': o['inner'],
        'cross-attention heads': heads,
        'cross-attention head size': o['width'] // heads,
        'inter_weight': o['weight'],
        'layers with base-to-prompt adaptation': o['exchange'],
        'layers with a deep prompt': o['deep'],
        'classes': o['classes'],
    }
    source = frozen_copies(o['depth'], swin=False) if o['tied'] else {}
    literal = LiteralSA2VP(weights(shapes, source, seed), literal_options)
    meta = dict(case=name, mode=mode, seed=seed, arguments=arguments, values_taken_from=source)
    return write(folder, meta, shapes, literal, size, labels, FULL_VIT)


def write_swin_case(folder: Path, mode='eval', seed=32, labels=(1, 3), name='made', **options):
    """Write a case of SA2VP on a Swin; returns its path."""
    o = {**SWIN, **options}
    grid = (o['size'] // o['patch'],) * 2
    shapes = sa2vp_swin_shapes(
        o['width'], o['depths'], o['heads'], o['window'], grid, o['patch'], o['inner'], o['classes']
    )
    exchange = tuple(range(0, o['depths'][2], 6))
    arguments = {
        'model': 'Dual_model over swin_transformer_tinypara.SwinTransformer',
        'embed width': o['width'],
        'depths': o['depths'],
        'heads': o['heads'],
        'window': o['window'],
        'image size': o['size'],
        'patch size': o['patch'],
        'inter_dim': o['inner'],
        'cross-attention heads': o['heads'][2],
        'inter_weight': o['weight'],
        'classes': o['classes'],
        'drop path': o['drop_path'],
    }
    source = frozen_copies(o['depths'][2], swin=True) if o['tied'] else {}
    literal = LiteralSA2VPSwin(
        weights(shapes, source, seed),
        SA2VPSwinOptions(o['heads'], o['window'], exchange, o['weight']),
    )
    meta = dict(case=name, mode=mode, seed=seed, arguments=arguments, values_taken_from=source)
    meta['buffers'] = [
        ['vit_base.layers.0.blocks.0.attn.relative_position_index', [4, 4], 'constructed']
    ]
    return write(folder, meta, shapes, literal, [o['size']] * 2, labels, FULL_SWIN)


def weights(shapes: dict, source: dict, seed: int) -> dict[str, torch.Tensor]:
    return {
        key: torch.from_numpy(recipe.tensor(source.get(key, key), list(shape), seed))
        for key, shape in shapes.items()
    }


def write(
    folder: Path, meta: dict, shapes: dict, literal: nn.Module, size: list, labels, full
) -> Path:
    """Compute a case in float64 and write it."""
    shape = (len(labels or [0]), 3, *size)
    image, kept = images(*shape, seed=meta['seed']).double(), {}
    logits, prompt_logits = literal.double()(image, kept)
    arrays = {key: value for key, value in kept.items() if key[6:] in ('', '0', '1') or '_' in key}
    arrays |= {'logits': logits, 'prompt_logits': prompt_logits}
    meta = dict(
        system='sa2vp', inputs={'input': shape}, labels=list(labels) if labels else None,
        parameters=[[key, list(shape), is_trainable(key)] for key, shape in shapes.items()],
        trainable_parameters=sum(math.prod(s) for key, s in shapes.items() if is_trainable(key)),
        gradient_keys=[], gradient_keys_without_gradient=[],
        gradient_keys_dominated_by_rounding=[], **{'buffers': [], **meta},
    )  # fmt: skip
    if labels:
        target = torch.tensor(labels)
        loss = 0.8 * F.cross_entropy(logits, target) + 0.2 * F.cross_entropy(prompt_logits, target)
        loss.backward()
        arrays['loss'] = loss
        add_gradients(meta, arrays, literal, full)
    path = folder / 'sa2vp' / f'{meta["case"]}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(meta))
    plain = {key: value.detach().float().numpy() for key, value in arrays.items()}
    np.savez(path.with_suffix('.npz'), **plain, logits_float64=logits.detach().numpy())
    return path


def add_gradients(meta: dict, arrays: dict, literal: nn.Module, full: tuple[str, ...]) -> None:
    gradients = {
        name: getattr(literal, own).grad
        for name, own in literal.names.items()
        if is_trainable(name)
    }
    meta['gradient_keys'] = list(gradients)
    arrays['grad_l2'] = torch.stack([g.norm() for g in gradients.values()])
    arrays['grad_sum'] = torch.stack([g.sum() for g in gradients.values()])
    probes = [
        (g * torch.from_numpy(recipe.noise(f'probe:{key}', g.shape, meta['seed']))).sum()
        for key, g in gradients.items()
    ]
    arrays['grad_probe'] = torch.stack(probes)
    arrays |= {f'grad/{key}': gradients[key] for key in full}
