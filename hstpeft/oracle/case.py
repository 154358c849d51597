"""A reference case, and the comparison of a run with it."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hstpeft.oracle import recipe

# Limits of ../shared/reference/README.md: |a - b| <= absolute + relative * |b|.
OUTPUT_LIMITS = (2e-5, 1e-4)
FLOAT64_LIMIT = 1e-8
GRADIENT_LIMIT = 1e-3
ROUNDING_LIMIT = 1e-4


class UnknownArgument(ValueError):
    """A case asks for something that the product cannot build."""


class Mismatch(AssertionError):
    """A number of the run differs from the case."""


@dataclass
class Run:
    """What a model gave.

    Attributes:
        outputs: Outputs by array name.
        parameters: Trainable parameters by official name.
        unused: Official trainable parameters that influence nothing and do not exist here.
    """

    outputs: dict[str, Tensor]
    parameters: dict[str, nn.Parameter]
    unused: frozenset[str] = frozenset()


class Case:
    """One reference case: arguments, weights, inputs and expected numbers.

    Args:
        path: The case's JSON file; the NPZ lies beside it.
        dtype: What weights and inputs are cast to.
    """

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        self.meta: dict[str, Any] = json.loads(path.read_text())
        self.name = f'{path.parent.name}/{path.stem}'
        with np.load(path.with_suffix('.npz'), allow_pickle=False) as arrays:
            self.arrays = {name: arrays[name] for name in arrays}
        self.dtype = dtype
        self.seed = self.meta['seed']
        self.mode: str = self.meta['mode']
        self.arguments: dict[str, Any] = self.meta['arguments']
        labels = self.meta['labels']
        self.labels = None if labels is None else torch.tensor(labels)
        self.inputs = {
            name: torch.from_numpy(recipe.image(name, shape, self.seed)).to(dtype)
            for name, shape in self.meta['inputs'].items()
        }
        self.weights = self._weights()

    def _weights(self) -> dict[str, Tensor]:
        source = self.meta.get('values_taken_from', {})
        entries = [(key, shape) for key, shape, _ in self.meta['parameters']]
        entries += [(k, shape) for k, shape, kind in self.meta['buffers'] if kind == 'reference']
        weights = {
            key: torch.from_numpy(recipe.tensor(source.get(key, key), shape, self.seed))
            for key, shape in entries
        }
        zeros = [key for key, _, kind in self.meta['buffers'] if kind == 'zero']
        return {**weights, **{key: torch.tensor(0) for key in zeros}}

    def compare(self, run: Run) -> tuple[float, float]:
        """Check every number of the case.

        Returns:
            The largest difference of an output and the largest relative one of a gradient.

        Raises:
            Mismatch: Names the first number that is off.
        """
        self._compare_trainable(run)
        expected = {
            name: array
            for name, array in self.arrays.items()
            if not name.startswith('grad') and name != 'logits_float64'
        }
        missing = expected.keys() - run.outputs.keys()
        if missing:
            raise Mismatch(f'the run gave no {sorted(missing)}')
        largest = max(
            _compare_array(name, run.outputs[name], array) for name, array in expected.items()
        )
        if self.dtype == torch.float64:
            exact = self.arrays['logits_float64']
            largest = _difference('logits_float64', run.outputs['logits'], exact)
            if not largest <= FLOAT64_LIMIT:
                raise Mismatch(f'logits_float64 differ by {largest:.1e}, limit {FLOAT64_LIMIT}')
        return largest, self._compare_gradients(run)

    def _compare_trainable(self, run: Run) -> None:
        """Compare the trainable parameters by name; unused official ones need not exist here."""
        unused = run.unused | set(self.meta['gradient_keys_without_gradient'])
        listed = {key: shape for key, shape, trainable in self.meta['parameters'] if trainable}
        count = sum(math.prod(shape) for shape in listed.values())
        if count != self.meta['trainable_parameters']:
            raise Mismatch(f'trainable_parameters is not the sum of the listed ones, {count}')
        wanted, got = listed.keys() - unused, run.parameters.keys() - unused
        if wanted != got:
            raise Mismatch(f'trainable only in one of case and run: {sorted(wanted ^ got)[:6]}')
        for key in sorted(got):
            if list(run.parameters[key].shape) != listed[key]:
                raise Mismatch(f'{key} has shape {list(run.parameters[key].shape)}')

    def _compare_gradients(self, run: Run) -> float:
        keys = self.meta['gradient_keys']
        if not keys:
            return 0.0
        sizes = np.maximum(self.arrays['grad_l2'], np.finfo(np.float64).tiny)
        rounding = set(self.meta['gradient_keys_dominated_by_rounding'])
        largest = 0.0
        for index, key in enumerate(keys):
            parameter = run.parameters.get(key)
            gradient = None if parameter is None else parameter.grad
            got = np.zeros(1) if gradient is None else gradient.detach().double().numpy()
            if key in self.meta['gradient_keys_without_gradient']:
                if np.abs(got).max() > 0 or self.arrays['grad_l2'][index] != 0:
                    raise Mismatch(f'{key} must have no gradient')
                continue
            if key in rounding:
                if np.linalg.norm(got) > ROUNDING_LIMIT * sizes.max():
                    raise Mismatch(f'the gradient of {key} must be nearly zero')
                continue
            if gradient is None:
                raise Mismatch(f'{key} got no gradient')
            probe = recipe.noise(f'probe:{key}', got.shape, self.seed)
            checks = {
                'grad_l2': (np.linalg.norm(got), 1.0),
                'grad_sum': (got.sum(), math.sqrt(got.size)),
                'grad_probe': ((got * probe).sum(), 1.0),
            }
            for name, (value, scale) in checks.items():
                off = abs(value - self.arrays[name][index]) / (sizes[index] * scale)
                largest = _keep(largest, off, f'{name} of {key}')
            if f'grad/{key}' in self.arrays:
                off = np.abs(got - self.arrays[f'grad/{key}']).max() / sizes[index]
                largest = _keep(largest, off, f'grad/{key}')
        return largest


def _keep(largest: float, off: float, what: str) -> float:
    if not off <= GRADIENT_LIMIT:
        raise Mismatch(f'{what} is off by {off:.1e} of its size, limit {GRADIENT_LIMIT}')
    return max(largest, float(off))


def _difference(name: str, got: Tensor, expected: np.ndarray) -> float:
    if tuple(got.shape) != expected.shape:
        raise Mismatch(f'{name} has shape {tuple(got.shape)} instead of {expected.shape}')
    return float(np.abs(got.detach().double().numpy() - expected).max())


def _compare_array(name: str, got: Tensor, expected: np.ndarray) -> float:
    largest = _difference(name, got, expected)
    absolute, relative = OUTPUT_LIMITS
    off = np.abs(got.detach().double().numpy() - expected)
    if not (off <= absolute + relative * np.abs(expected)).all():
        raise Mismatch(f'{name} differs by {largest:.1e}, limit {absolute} + {relative} relative')
    return largest
