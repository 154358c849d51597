"""Which parameters of a part of a trunk are its own, and which are those of norms."""

from collections.abc import Iterator

from torch import nn


def own_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Give the parameters of a part of a trunk without those of a tuner's that stand on its layers."""
    base = getattr(module, 'base_layer', None)  # of an `AdaptedLayer`, and of HF peft's layers
    if base is not None:
        yield from own_parameters(base)
        return
    yield from module.parameters(recurse=False)
    for child in module.children():
        yield from own_parameters(child)


def has_parameters(module: nn.Module | None) -> bool:
    """Whether a place holds a layer with parameters: timm fills empty ones with an Identity."""
    return module is not None and next(module.parameters(), None) is not None


def norm_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Give weight and bias of every norm: what has a weight of one dimension."""
    for part in module.modules():
        own = dict(part.named_parameters(recurse=False))
        if 'weight' in own and own['weight'].dim() == 1:
            yield from own.values()
