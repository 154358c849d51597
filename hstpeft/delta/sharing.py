"""Several models over one trunk: frozen parameters that are equal are held once."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from hstpeft.delta.digest import digest


def index_by_content(parameters: Iterable[nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    """Group parameters by the hash of dtype, shape and values.

    Args:
        parameters: Frozen ones: a hash of what changes is soon wrong.
    """
    index = defaultdict(list)
    for parameter in parameters:
        index[digest(parameter)].append(parameter)
    return dict(index)


def share_frozen(
    model: nn.Module, trunk: nn.Module, held: Mapping[str, Sequence[nn.Parameter]]
) -> None:
    """Put held parameters in the place of a trunk's frozen ones, in place.

    They are matched by content and not by name: tuners that stand on layers (LoRA, SSF) rename what
    is below them. So no output can change, and what has no equal stays. It is the parameter that is
    shared and not its storage alone: moved in one model, it has moved in all.

    Args:
        model: Wherever it holds one of these parameters, it then holds the other.
        trunk: Part of the model.
        held: From `index_by_content`.
    """
    left = {content: list(parameters) for content, parameters in held.items()}
    taken = {}
    for parameter in trunk.parameters():
        # Each is taken once: in a state dict one parameter at two places is one at the first alone.
        if not parameter.requires_grad and (equal := left.get(digest(parameter))):
            taken[id(parameter)] = equal.pop(0)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(parameter) in taken:
                setattr(module, name, taken[id(parameter)])
