"""What a delta was trained for: its trunk, and a hash of what decides the function beside tensors.

Packed into a uint8 tensor of fixed length, the extra state of a tuned backbone. Deltas of hstpeft
0.1 hold no hash, but trunk and 64 bytes of words; they are compared by these words.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hstpeft.errors import UserError

_HASH_BYTES = 64
_WORDS_BYTES = 128
_OLD_WORDS_BYTES = 64


class Identity(NamedTuple):
    """Who a delta belongs to.

    Attributes:
        trunk: Fingerprint of the trunk's weights, or ``'random'``.
        function: Hash of the canonical description; empty in a delta that has none.
        words: Tuner and form in words, for messages, and for deltas without hash.
    """

    trunk: str
    function: str
    words: str


def hash_description(description: Mapping[str, Any]) -> str:
    """Hash a nested description of plain values.

    Names are sorted, and what is falsy is left out at every level: an option that is added later,
    with a falsy neutral value, leaves the hashes of before alone.

    Returns:
        A sha256 as 64 hexadecimal digits.
    """
    text = json.dumps(_canonical(description), sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()


def encode_identity(identity: Identity) -> Tensor:
    """Pack an identity into a uint8 tensor; words that are too long are cut."""
    parts = zip(identity, (_HASH_BYTES, _HASH_BYTES, _WORDS_BYTES), strict=True)
    packed = b''.join(text.encode()[:size].ljust(size, b'\0') for text, size in parts)
    return torch.tensor(list(packed), dtype=torch.uint8)


def decode_identity(packed: Tensor) -> Identity:
    """Undo `encode_identity`, for the form of hstpeft 0.1 as well.

    Raises:
        UserError: It is no identity.
    """
    new, old = 2 * _HASH_BYTES + _WORDS_BYTES, _HASH_BYTES + _OLD_WORDS_BYTES
    if packed.dtype != torch.uint8 or packed.numel() not in (new, old):
        raise UserError(
            f"the checkpoint's trunk identity is damaged ({packed.dtype}, {packed.numel()} "
            'values): take another copy of the file'
        )
    raw = bytes(packed.cpu().tolist())
    bounds = [0, _HASH_BYTES, _HASH_BYTES if len(raw) == old else 2 * _HASH_BYTES, len(raw)]
    cut = [raw[start:end] for start, end in itertools.pairwise(bounds)]
    return Identity(*(part.rstrip(b'\0').decode(errors='replace') for part in cut))


def check_identity(given: Tensor, own: Tensor) -> None:
    """Compare the identity of a checkpoint with that of the model.

    Args:
        given: The checkpoint's, as `encode_identity` packs it.
        own: The model's.

    Raises:
        UserError: They differ; names both sides.
    """
    theirs, ours = decode_identity(given), decode_identity(own)
    size = _WORDS_BYTES if theirs.function else _OLD_WORDS_BYTES
    if theirs.words != _cut(ours.words, size):
        raise UserError(
            f'the checkpoint was made with the tuner {theirs.words}, the model has {ours.words}: '
            'use the config that the checkpoint was trained with'
        )
    if theirs.trunk != ours.trunk:
        raise UserError(
            f'the checkpoint was made on the trunk {theirs.trunk[:12]}, the model has the trunk '
            f'{ours.trunk[:12]}: give the weights that it was trained with as '
            'backbone.trunk.weights'
        )
    if theirs.function and theirs.function != ours.function:
        raise UserError(
            f'the checkpoint was made with other options of {ours.words} or of its trunk (function '
            f'{theirs.function[:12]}, the model has {ours.function[:12]}): use the config that the '
            'checkpoint was trained with'
        )


def _cut(words: str, size: int) -> str:
    return words.encode()[:size].decode(errors='replace')


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        items = {str(key): _canonical(item) for key, item in value.items()}
        return {key: item for key, item in items.items() if item}
    if isinstance(value, (list, tuple, range)):
        return [_canonical(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
