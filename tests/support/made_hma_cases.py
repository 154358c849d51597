"""Writes HMA reference cases as the official code would, computed by the literal form."""

import json
import math
from collections.abc import MutableMapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hstpeft.oracle import recipe
from hstpeft.oracle.literal.hma import HMAOptions, hma_shapes, literal_enqueue, literal_hma

DEFAULTS = dict(
    dims=24, classes=4, label_dims=8, heads=4, local=12, per_class=2, batch_attention=True, part='all',
    topk=None, norm=False, null=False, temp=1.0, momentum=0, dropout=0.0, inputs=None, steps=1,
    gaussian=True, rate=0.1, call_with_labels=None,
)  # fmt: skip
PARTS = {'all': 'all', 'feature': 'feature', 'label_emb': 'label'}


def write_hma_case(
    folder: Path, mode='eval', seed=21, labels=(1, 3, 0), name='made', **options
) -> Path:
    """Write a case; ``inputs`` is the width of a Linear encoder's inputs, None for no encoder."""
    o = {**DEFAULTS, **options}
    shapes = hma_shapes(
        o['dims'], o['label_dims'], o['classes'], o['local'], o['per_class'], o['batch_attention'],
        PARTS[o['part']], o['null'], dropout_names=bool(o['dropout']),
    )  # fmt: skip
    encoders = ['encoder', *(['momen_encoder'] if o['momentum'] else [])] if o['inputs'] else []
    for encoder in encoders:
        shapes[f'{encoder}.proj.weight'] = (o['dims'], o['inputs'])
        shapes[f'{encoder}.proj.bias'] = (o['dims'],)
    buffers = {key: shapes.pop(key) for key in ('queue', 'queue_ptr') if key in shapes}
    weights = {
        key: torch.from_numpy(recipe.tensor(key, list(shape), seed)).double()
        for key, shape in {**shapes, 'queue': buffers.get('queue', (1, 1))}.items()
    }
    if buffers:
        weights['queue_ptr'] = torch.zeros(1, dtype=torch.long)
    else:
        del weights['queue']
    parameters = {key: weights[key].requires_grad_() for key in shapes}
    remember = o['call_with_labels'] if o['call_with_labels'] is not None else mode == 'train'
    names = [f'input{i + 1}' for i in range(o['steps'])] if o['steps'] > 1 else ['input']
    shape = (len(labels), o['inputs'] or o['dims'])
    meta = dict(
        system='hma', case=name, mode=mode, seed=seed, inputs={n: shape for n in names},
        labels=list(labels), arguments=arguments(o), steps=o['steps'],
        loss='mean cross-entropy' + f'; plain SGD, lr {o["rate"]}, no momentum' * (o['steps'] > 1),
        call='model(x, label=labels, get_rep=True)' if remember else 'model(x, get_rep=True)',
        parameters=[[key, list(shape), True] for key, shape in shapes.items()],
        buffers=[[k, list(s), 'reference' if k == 'queue' else 'zero'] for k, s in buffers.items()],
        trainable_parameters=sum(math.prod(shape) for shape in shapes.values()),
    )  # fmt: skip
    arrays: dict[str, Tensor] = {}
    for number, key in enumerate(names, start=1):
        x = torch.from_numpy(recipe.image(key, shape, seed)).double()
        target = (torch.tensor(labels) + number - 1) % o['classes']
        step(weights, x, target, o, remember, arrays, number)
        if number == 1:
            add_gradients(meta, arrays, parameters)
            exact = arrays['logits'].clone()
        for parameter in parameters.values():
            if o['steps'] > 1 and parameter.grad is not None:
                parameter.data -= o['rate'] * parameter.grad
            parameter.grad = None
    if o['steps'] > 1:
        arrays['final/label_embeddings.weight'] = weights['label_embeddings.weight']
    path = folder / 'hma' / f'{name}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(meta))
    plain = {key: value.detach().float().numpy() for key, value in arrays.items()}
    np.savez(path.with_suffix('.npz'), **plain, logits_float64=exact.numpy())
    return path


def step(
    weights: MutableMapping[str, Tensor],
    x: Tensor,
    target: Tensor,
    o: dict,
    remember: bool,
    arrays: dict[str, Tensor],
    number: int,
) -> None:
    suffix = '' if number == 1 else f'_step{number}'
    options = HMAOptions(
        o['heads'], o['batch_attention'], PARTS[o['part']], o['topk'], o['norm'], o['temp']
    )  # fmt: skip
    features = encode(weights, 'encoder', x) if o['inputs'] else x
    samples, logits = literal_hma(weights, features, options)
    loss = F.cross_entropy(logits, target)
    loss.backward()
    arrays[f'logits{suffix}'], arrays[f'loss{suffix}'] = logits.detach(), loss.detach()
    arrays[f'feature{suffix}'] = samples[:, : o['dims']]
    if not (remember and o['local']):
        return
    with torch.no_grad():
        if o['momentum'] and o['inputs']:
            for leaf in ('weight', 'bias'):
                copied, own = (weights[f'{e}.proj.{leaf}'] for e in ('momen_encoder', 'encoder'))
                copied.data = o['momentum'] * copied + (1 - o['momentum']) * own
            features = encode(weights, 'momen_encoder', x)
            moved = weights['momen_encoder.proj.weight']
            arrays[f'momentum_weight_after_step{number}'] = moved.clone()
        literal_enqueue(weights, features, target)
    arrays[f'queue_after_step{number}'] = weights['queue'].clone()
    arrays[f'queue_ptr_after_step{number}'] = weights['queue_ptr'].clone()


def encode(weights: MutableMapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f'{name}.proj.weight'], weights[f'{name}.proj.bias'])


def arguments(o: dict) -> dict:
    return {
        'model': 'HMA',
        'feature size (dim_in = dim_out)': o['dims'],
        'classes': o['classes'],
        'label_hidden': o['label_dims'],
        'heads': o['heads'],
        'local_mem_size': o['local'],
        'num_global_memory per class': o['per_class'],
        'gaussain_mem': o['gaussian'],
        'abd_augmentation': o['batch_attention'],
        'logits_resource': o['part'],
        'topk': o['topk'],
        'norm_after_topk': o['norm'],
        'null_KV': o['null'],
        'softmax_temp': o['temp'],
        'encoder_momentum': o['momentum'],
        'hidden dropout': o['dropout'],
        'layer norm eps': 1e-12,
        'encoder': 'one Linear' if o['inputs'] else 'passes the given features through',
    }


def add_gradients(meta: dict, arrays: dict, parameters: dict[str, Tensor]) -> None:
    gradients = {
        key: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for key, p in parameters.items()
    }
    sizes = torch.stack([g.norm() for g in gradients.values()])
    meta['gradient_keys'] = list(gradients)
    meta['gradient_keys_without_gradient'] = [k for k, p in parameters.items() if p.grad is None]
    meta['gradient_keys_dominated_by_rounding'] = [
        key for key, size in zip(gradients, sizes, strict=True)
        if size < 1e-6 * sizes.max() and parameters[key].grad is not None
    ]  # fmt: skip
    arrays['grad_l2'] = sizes
    arrays['grad_sum'] = torch.stack([g.sum() for g in gradients.values()])
    arrays['grad_probe'] = torch.stack([
        (g * torch.from_numpy(recipe.noise(f'probe:{key}', g.shape, meta['seed']))).sum()
        for key, g in gradients.items()
    ])  # fmt: skip
    arrays['grad/fc.weight'] = gradients['fc.weight']
