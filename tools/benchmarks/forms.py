"""Forms of a model that a benchmark compares."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import timm
import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from hstpeft.models.trunks import ViTTrunk
from hstpeft.models.trunks.frozen_linear import FrozenLinear
from hstpeft.models.tuners import FrozenTuner

CLASSES = 100


class Setting(NamedTuple):
    """What is measured."""

    arch: str
    batch: int
    size: int


class Forms(NamedTuple):
    """Models of one function, and what is put in.

    Attributes:
        models: By form; the first is the literal one.
        inputs: One batch.
        inference_only: Forms of which no training step is taken.
        facts: By form, what else is to be written down.
    """

    models: dict[str, nn.Module]
    inputs: Tensor
    inference_only: tuple[str, ...] = ()
    facts: Mapping[str, dict[str, Any]] = {}


class TrunkOnly(nn.Module):
    """The floor: run the frozen blocks on tokens that want a gradient.

    Args:
        trunk: The trunk.
        copies: How often the batch is laid under itself (SA2VP runs two sequences).
    """

    def __init__(self, trunk: ViTTrunk, copies: int = 1) -> None:
        super().__init__()
        self.trunk, self.places, self.copies = trunk, FrozenTuner(), copies

    def forward(self, image: Tensor) -> Tensor:
        """Return the class token's first values as stand-in logits."""
        tokens = self.trunk.embed(image)[0].detach().repeat(self.copies, 1, 1)
        tokens.requires_grad_(self.training)
        last = self.trunk.num_layers - 1
        return self.trunk.run(tokens, self.places, [last])[last][: len(image), 0, :CLASSES]


class Logits(nn.Module):
    """Give only the logits of a model that returns more."""

    def __init__(self, model: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        return self.call(self.model, inputs)


def images(setting: Setting) -> Tensor:
    """Draw a batch of images."""
    return torch.randn(setting.batch, 3, setting.size, setting.size)


def trunk_weights(arch: str) -> dict[str, Tensor]:
    """Draw weights of a timm model."""
    return timm.create_model(arch, num_classes=0).state_dict()


def classifier(
    arch: str, weights: dict[str, Tensor], tuner: dict[str, Any], head: dict[str, Any], **parts: Any
) -> nn.Module:
    """Build a classifier as a config would."""
    trunk = dict(type='hstpeft.ViTTrunk', arch=arch, weights=weights)
    backbone = dict(type='hstpeft.TunedBackbone', trunk=trunk, tuner=tuner)
    return MODELS.build(
        dict(type='mmpretrain.ImageClassifier', backbone=backbone, head=head, **parts)
    )


def tensor_mode(model: nn.Module, inputs: Tensor) -> Tensor:
    """Call a host's classifier for its logits."""
    return model.head(model.extract_feat(inputs))


def floors(arch: str, weights: dict[str, Tensor], copies: int = 1) -> dict[str, nn.Module]:
    """Build the floor with torch's own Linears and with ours."""
    plain, frozen = (ViTTrunk(arch, weights=weights).requires_grad_(False) for _ in range(2))
    return {
        'floor, MKL': TrunkOnly(plain_linears(plain), copies),
        'floor': TrunkOnly(frozen, copies),
    }


def plain_linears(module: nn.Module) -> nn.Module:
    """Turn the frozen Linears back into torch's own."""
    for child in module.modules():
        if type(child) is FrozenLinear:
            child.__class__ = nn.Linear
    return module
