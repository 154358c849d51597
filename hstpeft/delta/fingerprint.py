"""The identity of a trunk: a hash of its tensors, never of a file."""

import hashlib
from collections.abc import Mapping

from torch import Tensor

RANDOM = 'random'
"""Identity of a trunk without pre-trained weights: its tensors belong to the delta."""


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Hash tensors by their sorted names, shapes and float32 values.

    Take the tensors after the names were converted and before anything is resampled or cast, so
    that the same weights have the same identity whatever file they came from.

    Returns:
        A sha256 as 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().float().contiguous()
        digest.update(f'{name}{tuple(tensor.shape)}'.encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
