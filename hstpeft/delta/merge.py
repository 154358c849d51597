"""Folding a tuner into its trunk."""

import copy

from torch import Tensor, nn


def merge(model: nn.Module) -> tuple[dict[str, Tensor], nn.Module]:
    """Fold the tuner of a model into the trunk's weights, on a copy.

    Args:
        model: A host's model with a tuned backbone.

    Returns:
        The merged trunk by timm's names, and the merged copy.

    Raises:
        UserError: The tuner cannot be folded; says why.
    """
    merged = copy.deepcopy(model)
    merged.backbone.tuner = merged.backbone.tuner.merge(merged.backbone.trunk)
    trunk = {name: p.detach().clone() for name, p in merged.backbone.trunk.net.named_parameters()}
    return trunk, merged
