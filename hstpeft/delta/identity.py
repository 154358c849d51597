"""What a delta was trained for: its trunk, what else decides the function, and the form of the outputs.

What else decides the function is hashed. All is packed into a uint8 tensor, the extra state of a tuned
backbone, whose length tells its version.
Deltas are compared by what they have: those of hstpeft 0.1 hold no hash, but trunk and 64 bytes of
words; the first ones of 0.2 hold no form.
"""

import hashlib
import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from torch import Tensor

from hstpeft.errors import UserError

_HASH_BYTES = 64
_WORDS_BYTES = 128
_OLD_WORDS_BYTES = 64
_FORM_BYTES = 128
_SIZES = (_HASH_BYTES, _HASH_BYTES, _WORDS_BYTES, _FORM_BYTES)
_LAYOUTS = {
    sum(sizes): sizes for sizes in (_SIZES, (*_SIZES[:3], 0), (_HASH_BYTES, 0, _OLD_WORDS_BYTES, 0))
}


class Identity(NamedTuple):
    """Who a delta belongs to.

    Attributes:
        trunk: Fingerprint of the trunk's weights, or ``'random'``.
        function: Hash of the canonical description; empty in a delta that has none.
        words: Tuner and trunk in words, for messages, and for deltas without hash.
        form: From `write_form`; empty in a delta that has none.
    """

    trunk: str
    function: str
    words: str
    form: str = ''


def write_form(
    out_type: str | None, out_indices: Sequence[int], out_norm: bool, dtype: torch.dtype
) -> str:
    """Write the form of what a backbone gives, as JSON of at most 128 bytes.

    Args:
        out_type: ``cls_token`` and the like; None for maps of the tuner's own.
        out_indices: Which blocks, stages or maps, counted from 0.
        out_norm: Whether maps get norms.
        dtype: What the frozen tensors are held in.
    """
    form = {
        'dtype': str(dtype).removeprefix('torch.'),
        'out_indices': list(out_indices),
        'out_norm': out_norm,
        'out_type': out_type,
    }
    text = _write(form)
    if len(text) > _FORM_BYTES:  # two dozen indices: a part of their hash tells them apart as well
        form['out_indices'] = hash_description({'out_indices': out_indices})[:16]
        text = _write(form)
    return text


def hash_description(description: Mapping[str, Any]) -> str:
    """Hash a nested description of plain values.

    Names are sorted, and what is falsy is left out at every level: an option that is added later,
    with a falsy neutral value, leaves earlier hashes alone.

    Returns:
        A sha256 as 64 hexadecimal digits.
    """
    return hashlib.sha256(_write(_canonical(description)).encode()).hexdigest()


def encode_identity(identity: Identity) -> Tensor:
    """Pack an identity into a uint8 tensor; words that are too long are cut."""
    parts = zip(identity, _SIZES, strict=True)
    packed = b''.join(text.encode()[:size].ljust(size, b'\0') for text, size in parts)
    return torch.tensor(list(packed), dtype=torch.uint8)


def decode_identity(packed: Tensor) -> Identity:
    """Undo `encode_identity`, also of identities of earlier versions, which lack parts.

    Raises:
        UserError: It is no identity.
    """
    if packed.dtype != torch.uint8 or packed.numel() not in _LAYOUTS:
        raise UserError(
            f"the checkpoint's trunk identity is damaged ({packed.dtype}, {packed.numel()} "
            'values): take another copy of the file'
        )
    raw = bytes(packed.cpu().tolist())
    bounds = itertools.accumulate(_LAYOUTS[len(raw)], initial=0)
    cut = [raw[start:end] for start, end in itertools.pairwise(bounds)]
    return Identity(*(part.rstrip(b'\0').decode(errors='replace') for part in cut))


def check_identity(given: Tensor, own: Tensor, allow_new_form: bool = False) -> None:
    """Compare the identity of a checkpoint with that of the model.

    Args:
        given: The checkpoint's, as `encode_identity` packs it.
        own: The model's.
        allow_new_form: Whether the backbone may give something else: for a new task.

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
    if theirs.form and not allow_new_form:
        _check_form(_read_form(theirs), _read_form(ours))


def warn_of_dtype(given: Tensor, own: Tensor) -> None:
    """Log if frozen tensors are held in another dtype than where a delta was trained.

    No reason to refuse: training in bfloat16 and deploying in float32 is meant to work.

    Args:
        given: The checkpoint's identity.
        own: The model's.
    """
    forms = [_read_form(decode_identity(packed)) for packed in (given, own)]
    theirs, ours = (form.get('dtype') for form in forms)
    if theirs and theirs != ours:
        print_log(
            f'the checkpoint was trained with frozen tensors in {theirs}, the model holds them in '
            f'{ours}: outputs may differ by rounding',
            logger='current',
            level=logging.WARNING,
        )


def _check_form(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Compare all but the dtype."""
    changed = [name for name in ours if name != 'dtype' and theirs.get(name) != ours[name]]
    if changed:
        made, has = (
            ', '.join(f'{name}={form.get(name)}' for name in changed) for form in (theirs, ours)
        )
        raise UserError(
            f'the checkpoint was made with backbone.{made}, the model has {has}: use the config that '
            'the checkpoint was trained with'
        )


def _read_form(identity: Identity) -> dict[str, Any]:
    """Read the form; empty for an identity of an earlier version."""
    try:
        form = json.loads(identity.form or '{}')
    except ValueError:
        form = None
    if not isinstance(form, dict):
        raise UserError(
            f"the form in the checkpoint's identity is damaged ({identity.form!r}): take another "
            'copy of the file'
        )
    return form


def _write(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(',', ':'))


def _cut(words: str, size: int) -> str:
    return words.encode()[:size].decode(errors='replace')


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        items = {str(key): _canonical(item) for key, item in value.items()}
        return {key: item for key, item in items.items() if item}
    if isinstance(value, (list, tuple, range)):
        return [_canonical(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
