"""Writes reference cases as the official codes would, computed by the literal forms in float64."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hstpeft.oracle import recipe
from hstpeft.oracle.literal.hst import is_buffer
from hstpeft.oracle.literal.module import OfficialModule
from tests.support.models import images


class Made(NamedTuple):
    """What a case is made of.

    Attributes:
        system: e.g. ``ssf``.
        arguments: In the words of the cases.
        shapes: Parameters and buffers by their official names.
        literal: Builds the literal form from drawn values.
        is_trainable: Tells by the official rule what is trained.
        name_outputs: Names the arrays of what the literal form returns.
        source: Key -> key whose reference values it gets instead of its own.
    """

    system: str
    arguments: Mapping[str, Any]
    shapes: Mapping[str, Sequence[int]]
    literal: Callable[[Mapping[str, Tensor]], OfficialModule]
    is_trainable: Callable[[str], bool]
    name_outputs: Callable[[list[Tensor]], Mapping[str, Tensor]]
    source: Mapping[str, str] = {}


def write(
    folder: Path,
    made: Made,
    size: Sequence[int],
    mode: str = 'eval',
    seed: int = 7,
    labels: Sequence[int] | None = (0, 2),
) -> Path:
    """Compute a case and write it; without labels it has no loss and no gradients.

    Returns:
        The path of its JSON file.
    """
    shape = (len(labels or [0]), 3, *size)
    net = made.literal(draw(made, seed)).double()
    outputs, logits = net(images(*shape, seed=seed).double())
    arrays = {**made.name_outputs(outputs), 'logits': logits}
    meta = describe(made, shape, mode, seed, labels)
    if labels:
        arrays['loss'] = F.cross_entropy(logits, torch.tensor(labels))
        arrays['loss'].backward()
        add_gradients(meta, arrays, net)
    path = folder / made.system / 'made.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(meta))
    plain = {key: value.detach().float().numpy() for key, value in arrays.items()}
    np.savez(path.with_suffix('.npz'), **plain, logits_float64=logits.detach().numpy())
    return path


def draw(made: Made, seed: int) -> dict[str, Tensor]:
    """Draw the values of parameters and buffers."""
    return {
        key: torch.from_numpy(recipe.tensor(made.source.get(key, key), list(shape), seed))
        if not key.endswith('num_batches_tracked')
        else torch.tensor(0)
        for key, shape in made.shapes.items()
    }


def describe(
    made: Made, shape: Sequence[int], mode: str, seed: int, labels: Sequence[int] | None
) -> dict[str, Any]:
    """Make the JSON of a case, but for its gradients."""
    free = {key: made.is_trainable(key) for key in made.shapes if not is_buffer(key)}
    buffers = [[key, made.shapes[key]] for key in made.shapes if is_buffer(key)]
    return dict(
        system=made.system, case='made', mode=mode, seed=seed, inputs={'input': shape},
        labels=list(labels) if labels else None, arguments=dict(made.arguments),
        parameters=[[key, made.shapes[key], trained] for key, trained in free.items()],
        buffers=[[key, shape, 'reference' if shape else 'zero'] for key, shape in buffers],
        values_taken_from=dict(made.source),
        trainable_parameters=sum(math.prod(made.shapes[k]) for k, trained in free.items() if trained),
        gradient_keys=[], gradient_keys_without_gradient=[],
        gradient_keys_dominated_by_rounding=[],
    )  # fmt: skip


def add_gradients(meta: dict[str, Any], arrays: dict[str, Tensor], net: OfficialModule) -> None:
    """Add the three numbers of each gradient, and the gradients of all but every third in full."""
    keys = [key for key, _, trained in meta['parameters'] if trained]
    found = {key: getattr(net, net.names[key]) for key in keys}
    gradients = {k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in found.items()}
    sizes = torch.stack([g.norm() for g in gradients.values()])
    # A learned scale before a norm: its gradient is eps and rounding.
    meta['gradient_keys_dominated_by_rounding'] = [
        key for key, size in zip(keys, sizes, strict=True) if 0 < size < 1e-5 * sizes.max()
    ]
    # One that nothing reads: the deep prompts of a single block have no rows.
    meta['gradient_keys_without_gradient'] = [k for k in keys if found[k].grad is None]
    meta['gradient_keys'] = keys
    probes = {
        key: torch.from_numpy(recipe.noise(f'probe:{key}', g.shape, meta['seed']))
        for key, g in gradients.items()
    }
    arrays['grad_l2'] = sizes
    arrays['grad_sum'] = torch.stack([g.sum() for g in gradients.values()])
    arrays['grad_probe'] = torch.stack([(g * probes[k]).sum() for k, g in gradients.items()])
    arrays |= {f'grad/{key}': g for key, g in gradients.items() if found[key].grad is not None}


def image_size(size: Sequence[int]) -> int | list[int]:
    """Tell the image size as the official arguments do."""
    return size[0] if size[0] == size[1] else list(size)


def name_tokens(outputs: list[Tensor]) -> dict[str, Tensor]:
    """Name the arrays of a ViT."""
    return {'layer0': outputs[0], 'encoded': outputs[-1]}


def name_stages(outputs: list[Tensor]) -> dict[str, Tensor]:
    """Name the arrays of a Swin."""
    return {f'stage{stage}': tokens for stage, tokens in enumerate(outputs)}
