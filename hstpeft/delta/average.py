"""The weighted average of several deltas of one kind."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hstpeft.compat import EXTRA_STATE
from hstpeft.delta.digest import digest
from hstpeft.delta.files import make_delta
from hstpeft.delta.identity import decode_identity
from hstpeft.delta.state import list_differences
from hstpeft.errors import UserError, join_first

_COUNTER = 'num_batches_tracked'


def average_deltas(
    deltas: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    weights: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Average deltas of one trunk, tuner and set of classes, value by value.

    ``sum_i w_i delta_i / sum_i w_i`` in float64, cast back. A model of it is no average of the models:
    where parameters are multiplied (LoRA's A and B, ARC's D and s), the product of averages is not the
    average of products, so that deltas of one run or one beginning average well, and of unrelated ones
    little may be left. Running statistics of BatchNorm are averaged as well, which leaves out how far
    the means lie apart (measure them again if that matters); their counters become the largest one.

    Args:
        deltas: Two or more, from `load_checkpoint`; delta or training checkpoint.
        names: What messages call them.
        weights: One each, none negative; only their proportions count. Default: all the same.

    Returns:
        A delta as `make_delta` makes them, without epoch and iteration. Its metadata say under
        ``averaged`` of what it was made: ``file`` (the name), ``sha256`` (that of the contents, with
        which the file is sealed) and ``weight`` (of a sum of 1) of each.

    Raises:
        UserError: There are fewer than two, the weights are none, or a delta differs from the first in
            trunk, tuner, outputs, classes, keys, shapes, or in what cannot be averaged.
    """
    if len(deltas) < 2:
        raise UserError(f'an average needs two deltas at least, got {join_first(names) or "none"}')
    shares = _shares(weights, len(deltas))
    states = [delta['state_dict'] for delta in deltas]
    for state, name in zip(states[1:], names[1:], strict=True):
        _check_identity(state, states[0], name, names[0])
        if differences := list_differences(states[0], state):
            raise UserError(f'{name} does not fit {names[0]}: {differences}')
    dataset_meta = _common_dataset_meta(deltas, names)
    state = {key: _average(key, [s[key] for s in states], shares, names) for key in states[0]}
    averaged = [
        {'file': name, 'sha256': digest(delta), 'weight': share}
        for name, delta, share in zip(names, deltas, shares, strict=True)
    ]
    meta = {'dataset_meta': dataset_meta, 'averaged': averaged}
    return make_delta({'state_dict': state, 'meta': meta})


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    """Return weights that sum to 1."""
    weights = [1.0] * count if weights is None else list(weights)
    if len(weights) != count:
        raise UserError(f'weights {weights} must be one for each of the {count} deltas')
    if not all(math.isfinite(w) and w >= 0 for w in weights) or sum(weights) == 0:
        raise UserError(f'weights {weights} must be numbers from 0 up, and not all 0')
    return [weight / sum(weights) for weight in weights]


def _check_identity(
    state: Mapping[str, Tensor], first: Mapping[str, Tensor], name: str, first_name: str
) -> None:
    """Raise unless two deltas are of the same trunk, tuner, options and outputs."""
    own, other = (_identity(*pair) for pair in ((state, name), (first, first_name)))
    # Words first: another tuner or window explains another function.
    for what in ('words', 'trunk', 'function', 'form'):
        mine, theirs = getattr(own, what), getattr(other, what)
        if mine != theirs:
            kind = {'words': 'tuner', 'function': 'options (hash)', 'form': 'outputs'}.get(
                what, what
            )
            long = 12 if what in ('trunk', 'function') else None
            raise UserError(
                f'{name} was made with the {kind} {mine[:long] or "of an older version"}, '
                f'{first_name} with {theirs[:long] or "those of an older version"}: only deltas of '
                'one kind have an average'
            )


def _identity(state: Mapping[str, Tensor], name: str) -> Any:
    found = [value for key, value in state.items() if key.rpartition('.')[2] == EXTRA_STATE]
    if len(found) != 1:
        raise UserError(f'{name} has no trunk identity, so it is not one of hstpeft')
    return decode_identity(found[0])


def _common_dataset_meta(
    deltas: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> Mapping[str, Any]:
    """Return what the first delta that names classes says of its data; all must name the same."""
    metas = [delta.get('meta', {}).get('dataset_meta') or {} for delta in deltas]
    known = [pair for pair in zip(metas, names, strict=True) if pair[0].get('classes')]
    for meta, name in known[1:]:
        first, first_name = known[0]
        if list(meta['classes']) != list(first['classes']):
            raise UserError(
                f'{name} has the classes {join_first(meta["classes"])}, {first_name} has '
                f'{join_first(first["classes"])}: their heads have no average'
            )
    return known[0][0] if known else {}


def _average(
    key: str, tensors: Sequence[Tensor], shares: Sequence[float], names: Sequence[str]
) -> Tensor:
    first = tensors[0]
    for tensor, name in zip(tensors, names, strict=True):
        if tensor.dtype != first.dtype:
            raise UserError(
                f'{key} is {tensor.dtype} in {name} and {first.dtype} in {names[0]}: only deltas of '
                'one dtype have an average'
            )
    # A share of 0 leaves out even what is not finite.
    used = [(tensor, share) for tensor, share in zip(tensors, shares, strict=True) if share]
    if first.is_floating_point():
        parts = [tensor.double() * share for tensor, share in used]
        return sum(parts[1:], start=parts[0]).to(first.dtype)
    if key.rpartition('.')[2] == _COUNTER:
        return torch.stack([tensor for tensor, _ in used]).amax(dim=0)
    for tensor, name in zip(tensors, names, strict=True):
        if not tensor.equal(first):
            raise UserError(
                f'{key} differs in {name} and {names[0]}, and {first.dtype} values have no average'
            )
    return first
