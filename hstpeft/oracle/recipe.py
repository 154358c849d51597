"""The deterministic weights and inputs of the reference cases (numpy only)."""

import math
import zlib
from collections.abc import Sequence

import numpy as np

TOKEN_WORDS = ('ppt', 'mem', 'queue', 'cross_conv')


def noise(key: str, shape: Sequence[int], seed: int) -> np.ndarray:
    """Draw standard normal float64 noise that depends on nothing but the arguments."""
    generator = np.random.default_rng([int(seed), zlib.crc32(key.encode())])
    return generator.standard_normal(tuple(shape))


def tensor(key: str, shape: Sequence[int], seed: int) -> np.ndarray:
    """Make the float32 value of the official parameter or buffer ``key``.

    Statistics and norm scales lie around 1, biases around 0 with deviation 0.1, tokens have
    deviation 0.5 and matrices are scaled by their fan in.
    """
    last = key.rpartition('.')[2]
    values = noise(key, shape, seed)
    is_weight = last == 'weight'
    if last == 'running_var':
        values = 1 + 0.1 * np.abs(values)
    elif len(shape) < 2:
        values = 0.1 * values + (1 if is_weight else 0)
    elif not is_weight and (shape[0] == 1 or any(word in last for word in TOKEN_WORDS)):
        values = 0.5 * values
    else:
        fan_in = math.prod(shape[1:]) if is_weight else shape[0]
        values = values / math.sqrt(fan_in)
    return values.astype(np.float32)


def image(name: str, shape: Sequence[int], seed: int) -> np.ndarray:
    """Make the float32 input called ``name``."""
    return noise(f'input:{name}', shape, seed).astype(np.float32)
