"""What a tuned backbone puts into a state dict, and what it accepts back.

A backbone's state dict holds the delta and no frozen trunk tensor. The hooks are plain functions
that take the module from their own arguments: a bound method or a closure would keep pointing at
the original after ``copy.deepcopy`` (EMA), and mmengine's own loader only calls
``_load_from_state_dict``.
"""

from collections.abc import Collection, Mapping, MutableMapping

from torch import Tensor, nn

from hstpeft.compat import EXTRA_STATE
from hstpeft.delta.fingerprint import RANDOM
from hstpeft.delta.identity import check_identity, warn_of_dtype
from hstpeft.errors import UserError, join_first

_BACKBONE = 'backbone.'


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


def frozen_trunk_tensors(backbone: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a delta leaves out, by their names inside the backbone."""
    if backbone.trunk.identity == RANDOM:
        return {}
    return {
        f'trunk.{name}': parameter.data
        for name, parameter in backbone.trunk.named_parameters()
        if not parameter.requires_grad and f'trunk.{name}' in backbone.frozen_names
    }


def list_differences(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], reshapable: Collection[str] = ()
) -> str:
    """Say in which keys and shapes tensors differ from those that they shall fill.

    Args:
        own: What is about to be filled.
        given: What it is filled with.
        reshapable: Keys whose shape may differ.

    Returns:
        What is missing, left over and of another shape, the first five of each; empty if all fits.
    """
    reshaped = [
        f'{key} {tuple(given[key].shape)} instead of {tuple(own[key].shape)}'
        for key in sorted(own.keys() & given.keys())
        if given[key].shape != own[key].shape and key not in reshapable
    ]
    found = {
        'missing': sorted(own.keys() - given.keys()),
        'unexpected': sorted(given.keys() - own.keys()),
        'shape': reshaped,
    }
    return '; '.join(f'{title}: {join_first(keys, 5)}' for title, keys in found.items() if keys)


def check_state_dict(own: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> None:
    """Raise if two state dicts differ in keys or shapes.

    Args:
        own: The state dict of the model that is about to be filled.
        given: The state dict to be loaded.
        what: What is loaded into what, for the message.

    Raises:
        UserError: Says what is missing, unexpected or of another shape.
    """
    # An identity is compared by its content: its length tells its version.
    identities = [key for key in own if key.rpartition('.')[2] == EXTRA_STATE]
    differences = list_differences(own, given, identities)
    if differences:
        raise UserError(f'{what} does not fit: {differences}')


def take_form(given: MutableMapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Let a checkpoint start a task that reads other outputs of the same trunk and tuner.

    Args:
        given: A host's state dict, whose identity has been compared but for the form. Gets, in
            place, the model's form and its norms of the outputs, as they were initialised.
        own: The state dict of the model.
    """
    identity = f'{_BACKBONE}{EXTRA_STATE}'
    if len(given[identity]) == len(own[identity]):  # those of earlier versions have no form
        given[identity] = own[identity]
    norms = [key for key in {*given, *own} if key.startswith(f'{_BACKBONE}out_norms.')]
    if list_differences(*({k: d[k] for k in norms if k in d} for d in (own, given))):
        for key in norms:
            given.pop(key, None)
        given.update({key: own[key] for key in norms if key in own})


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
    warn_of_dtype(given[EXTRA_STATE], own[EXTRA_STATE])
    check_state_dict(own, given, "the checkpoint's backbone")
    for name, tensor in frozen_trunk_tensors(module).items():
        state_dict[prefix + name] = tensor
