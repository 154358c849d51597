"""Folding a tuner into its trunk."""

import copy

from torch import Tensor, nn

from hstpeft.delta.fingerprint import RANDOM, fingerprint
from hstpeft.delta.ownership import freeze_all_but


def merge(model: nn.Module) -> tuple[dict[str, Tensor], nn.Module]:
    """Fold the tuner of a model into the trunk's weights, on a copy.

    Args:
        model: A host's model with a tuned backbone.

    Returns:
        The merged trunk by timm's names, and the merged copy, which has the identity of that
        trunk: what it saves loads on the merged trunk only.

    Raises:
        UserError: The tuner cannot be folded; says why.
    """
    merged = copy.deepcopy(model)
    backbone = merged.backbone
    backbone.merge_tuner()
    # What was trained of the trunk is the trunk now, and no longer part of what is saved.
    freeze_all_but(backbone, backbone.out_norms.parameters())
    backbone.frozen_names = frozenset(
        name for name, p in backbone.named_parameters() if not p.requires_grad
    )
    trunk = {name: p.clone() for name, p in backbone.trunk.timm_tensors().items()}
    if backbone.trunk.identity != RANDOM:
        backbone.trunk.identity = fingerprint(trunk)
    return trunk, merged
