"""What a tuned backbone puts into a state dict, and what it accepts back.

A backbone's state dict holds the delta and no frozen trunk tensor. The hooks are plain functions
that take the module from their own arguments: a bound method or a closure would keep pointing at
the original after ``copy.deepcopy`` (EMA), and mmengine's own loader only calls
``_load_from_state_dict``.
"""

from collections.abc import Mapping, MutableMapping

import torch
from torch import Tensor, nn

from hstpeft.compat import EXTRA_STATE
from hstpeft.delta.fingerprint import RANDOM
from hstpeft.errors import UserError

_IDENTITY_BYTES = 64
_TUNER_BYTES = 64


def install_state_hooks(backbone: nn.Module) -> None:
    """Make ``backbone.state_dict()`` the delta, and loading strict about trunk, tuner and keys.

    Args:
        backbone: A module with a ``trunk`` (that has an ``identity``) and a ``tuner``, frozen
            where it shall be.
    """
    # EMA's copy is frozen as a whole: what is frozen now must be remembered.
    backbone.frozen_names = frozenset(
        name for name, parameter in backbone.named_parameters() if not parameter.requires_grad
    )
    backbone.register_state_dict_post_hook(_drop_frozen)
    backbone.register_load_state_dict_pre_hook(_check_and_refill)


def encode_identity(identity: str, tuner: str) -> Tensor:
    """Pack the trunk's identity and the tuner's type into a uint8 tensor of fixed length."""
    parts = [(identity, _IDENTITY_BYTES), (tuner, _TUNER_BYTES)]
    packed = b''.join(text.encode().ljust(size, b'\0')[:size] for text, size in parts)
    return torch.tensor(list(packed), dtype=torch.uint8)


def decode_identity(packed: Tensor) -> tuple[str, str]:
    """Undo `encode_identity`.

    Returns:
        The trunk's identity and the tuner's type.
    """
    if packed.dtype != torch.uint8 or packed.numel() != _IDENTITY_BYTES + _TUNER_BYTES:
        raise UserError(
            f"the checkpoint's trunk identity is damaged ({packed.dtype}, {packed.numel()} "
            'values): take another copy of the file'
        )
    raw = bytes(packed.cpu().tolist())
    cut = raw[:_IDENTITY_BYTES], raw[_IDENTITY_BYTES:]
    return tuple(part.rstrip(b'\0').decode(errors='replace') for part in cut)


def frozen_trunk_tensors(backbone: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a delta leaves out, by their names inside the backbone."""
    if backbone.trunk.identity == RANDOM:
        return {}
    return {
        f'trunk.{name}': parameter.data
        for name, parameter in backbone.trunk.named_parameters()
        if not parameter.requires_grad and f'trunk.{name}' in backbone.frozen_names
    }


def check_state_dict(own: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> None:
    """Raise if two state dicts differ in keys or shapes.

    Args:
        own: The state dict of the model that is about to be filled.
        given: The state dict to be loaded.
        what: What is loaded into what, for the message.

    Raises:
        UserError: Some keys are missing, unexpected or of another shape; all are listed.
    """
    problems = []
    missing = sorted(own.keys() - given.keys())
    unexpected = sorted(given.keys() - own.keys())
    reshaped = [
        f'{key} {tuple(given[key].shape)} instead of {tuple(own[key].shape)}'
        for key in sorted(own.keys() & given.keys())
        if given[key].shape != own[key].shape
    ]
    for title, keys in (('missing', missing), ('unexpected', unexpected), ('shape', reshaped)):
        if keys:
            more = f' and {len(keys) - 5} more' if len(keys) > 5 else ''
            problems.append(f'{title}: {", ".join(keys[:5])}{more}')
    if problems:
        raise UserError(f'{what} does not fit: {"; ".join(problems)}')


def _drop_frozen(
    module: nn.Module, state_dict: MutableMapping, prefix: str, local_metadata: dict
) -> None:
    """State dict post hook: remove the frozen trunk tensors, in place."""
    for name in frozen_trunk_tensors(module):
        del state_dict[prefix + name]


def _check_and_refill(
    module: nn.Module,
    state_dict: MutableMapping,
    prefix: str,
    local_metadata: dict,
    strict: bool,
    missing_keys: list,
    unexpected_keys: list,
    error_msgs: list,
) -> None:
    """Load pre hook: refuse what does not fit before anything is copied, then refill the trunk."""
    given = {
        key.removeprefix(prefix): value
        for key, value in state_dict.items()
        if key.startswith(prefix)
    }
    own = {key.removeprefix(prefix): value for key, value in module.state_dict().items()}
    if EXTRA_STATE not in given:
        raise UserError(
            'the checkpoint has no trunk identity, so it is not a delta of hstpeft: '
            'convert official checkpoints with tools/model_converters, or give whole trunks as '
            'backbone.trunk.weights'
        )
    check_identity(given[EXTRA_STATE], own[EXTRA_STATE])
    check_state_dict(own, given, "the checkpoint's backbone")
    for name, tensor in frozen_trunk_tensors(module).items():
        state_dict[prefix + name] = tensor


def check_identity(given: Tensor, own: Tensor) -> None:
    """Compare trunk and tuner of a checkpoint with those of the model.

    Args:
        given: The checkpoint's, as `encode_identity` packs it.
        own: The model's.

    Raises:
        UserError: They differ; names both sides.
    """
    (trunk, tuner), (own_trunk, own_tuner) = decode_identity(given), decode_identity(own)
    if tuner != own_tuner:
        raise UserError(
            f'the checkpoint was made with the tuner {tuner}, the model has {own_tuner}: '
            'use the config that the checkpoint was trained with'
        )
    if trunk != own_trunk:
        raise UserError(
            f'the checkpoint was made on the trunk {trunk[:12]}, the model has the trunk '
            f'{own_trunk[:12]}: give the weights that it was trained with as backbone.trunk.weights'
        )
