"""Every way in which a state dict gets into a model, by torch's own hands and by mmengine's."""

from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn


def by_torch(model: nn.Module, state: dict) -> None:
    """Load strictly."""
    model.load_state_dict(state, strict=True)


def by_torch_loosely(model: nn.Module, state: dict) -> None:
    """Load what fits."""
    model.load_state_dict(state, strict=False)


def by_mmengine(model: nn.Module, state: dict) -> None:
    """Load strictly, as a resume does."""
    mmengine_checkpoint.load_state_dict(model, state, strict=True)


def by_mmengine_loosely(model: nn.Module, state: dict) -> None:
    """Load what fits, as ``load_from`` and the hosts' inferencers do."""
    mmengine_checkpoint.load_state_dict(model, state, strict=False)


LOADERS = (by_torch, by_torch_loosely, by_mmengine, by_mmengine_loosely)
