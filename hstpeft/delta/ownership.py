"""Who owns which parameter, and what is trainable: by identity of the tensor, never by name."""

from collections.abc import Iterable

from torch import nn


def freeze_all_but(module: nn.Module, trainable: Iterable[nn.Parameter]) -> None:
    """Freeze every parameter of ``module`` except the given ones.

    Args:
        module: The module whose parameters are set.
        trainable: Parameters of ``module`` that training may change.
    """
    chosen = {id(parameter) for parameter in trainable}
    own = {id(parameter) for parameter in module.parameters()}
    assert chosen <= own, 'a tuner claimed a parameter that is not in the backbone'
    for parameter in module.parameters():
        parameter.requires_grad_(id(parameter) in chosen)


def owner_table(model: nn.Module) -> list[tuple[str, int, int]]:
    """Count parameters by owner, for a start-up table.

    The owners are the children of the model, and the children of those of them that hold both
    trainable and frozen parameters (a tuned backbone: its trunk and its tuner). What two of them
    share (a momentum encoder's frozen trunk) counts for the first.

    Returns:
        Rows of (owner, number of trainable values, number of all values).
    """
    rows, counted = [], set()
    for name, child in model.named_children():
        parts = [(name, child)]
        kinds = {parameter.requires_grad for parameter in child.parameters()}
        if len(kinds) == 2:
            parts = [(f'{name}.{part}', module) for part, module in child.named_children()]
        for owner, module in parts:
            own = [p for p in module.parameters() if id(p) not in counted]
            counted.update(id(p) for p in own)
            sizes = [(p.numel(), p.requires_grad) for p in own]
            if sizes:
                rows.append((owner, sum(n for n, free in sizes if free), sum(n for n, _ in sizes)))
    return rows
