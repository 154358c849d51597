"""Tiny trunks, backbones and classifiers that the tests share."""

import functools
from collections.abc import Mapping
from typing import Any

import timm
import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from hstpeft.oracle import recipe
from hstpeft.oracle.literal.hvt import hvt_shapes

ARCH = 'vit_tiny_patch16_224'
# Skipping timm's slow initialisation: the weights are drawn, or replaced, anyway.
VIT = dict(
    embed_dim=32, depth=4, num_heads=2, img_size=32, patch_size=8, weight_init='skip'
)  # fmt: skip
SWIN = dict(
    type='hstpeft.SwinTrunk',
    arch='swin_tiny_patch4_window7_224',
    arch_options=dict(
        img_size=32, patch_size=2, embed_dim=16, depths=(1, 1, 2, 1), num_heads=(2, 2, 2, 4),
        window_size=4,
    ),
)  # fmt: skip
HVT = dict(embed_dim=32, depth=4, num_heads=2, img_size=32, patch_size=8)
FROZEN = dict(type='hstpeft.FrozenTuner')
SIDE = dict(side_dims=(8, 12, 12, 16), side_heads=(2, 2, 3, 4))
MEAN_STD = dict(mean=[127.5] * 3, std=[127.5] * 3, num_classes=5)


def draw(shapes: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Draw float32 values that are non-trivial everywhere (norms, biases, statistics)."""
    return {
        key: torch.tensor(0)
        if key.endswith('num_batches_tracked')
        else torch.from_numpy(recipe.tensor(key, list(shape), seed))
        for key, shape in shapes.items()
    }


def images(*shape: int, seed: int = 0) -> Tensor:
    """Draw normalised images (B, 3, H, W)."""
    return torch.from_numpy(recipe.image('input', shape, seed))


def vit_weights(arch: str = ARCH, seed: int = 0, **options: Any) -> dict[str, Tensor]:
    """Draw the weights of a tiny timm ViT without classifier."""
    return draw(_vit_shapes(arch, tuple(sorted(options.items()))), seed)


@functools.cache
def _vit_shapes(arch: str, options: tuple) -> dict[str, torch.Size]:
    vit = timm.create_model(arch, num_classes=0, **{**VIT, **dict(options)})
    return {key: value.shape for key, value in vit.state_dict().items()}


def trunk_config(
    weights: Any = 'drawn', arch: str = ARCH, dtype: str = 'float32', **options
) -> dict:
    """Config of a tiny trunk; by default with drawn weights."""
    if isinstance(weights, str) and weights == 'drawn':
        weights = vit_weights(arch, **options)
    if weights is None:  # timm leaves the tokens of a skipped initialisation undefined
        options = {'weight_init': '', **options}
    return dict(
        type='hstpeft.ViTTrunk',
        arch=arch,
        arch_options={**VIT, **options},
        weights=weights,
        dtype=dtype,
    )


def hvt_config(**options: Any) -> dict:
    """Config of a tiny HVT with drawn weights that pools in its blocks 0 and 2."""
    shapes = hvt_shapes(32, 4, (4, 4), 8, 5, pool_width=2)
    weights = {k: v for k, v in draw(shapes).items() if not k.startswith('head.')}
    config = dict(type='hstpeft.HVTTrunk', arch='hvt_s_1', arch_options=HVT, pool_width=2)
    return {**config, 'weights': weights, **options}


def hst_config(**options: Any) -> dict:
    """Config of a tiny HST tuner."""
    return dict(type='hstpeft.HSTTuner', **{**SIDE, **options})


def backbone_config(trunk: dict | None = None, tuner: dict | None = None, **options: Any) -> dict:
    """Config of a tiny tuned backbone; HST by default."""
    return dict(
        type='hstpeft.TunedBackbone',
        trunk=trunk or trunk_config(),
        tuner=tuner or hst_config(),
        **options,
    )


def classifier_config(backbone: dict | None = None, num_classes: int = 5) -> dict:
    """Config of a tiny HST image classifier."""
    backbone = backbone or backbone_config()
    width = backbone['tuner']['side_dims'][-1]
    return dict(
        type='ImageClassifier',
        data_preprocessor=MEAN_STD,
        backbone=backbone,
        neck=dict(type='hstpeft.PooledNorm', in_channels=width),
        head=dict(type='LinearClsHead', num_classes=num_classes, in_channels=width),
    )


def build(config: dict, seed: int | None = 0) -> nn.Module:
    """Build a model and, unless ``seed`` is None, fill what it trains with drawn values."""
    model = MODELS.build(config)
    if seed is not None:
        redraw(model, seed)
    return model


def redraw(model: nn.Module, seed: int) -> None:
    """Fill the trainable parameters and running statistics with drawn values, in place."""
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    own.update((name, b) for name, b in model.named_buffers() if 'running_' in name)
    drawn = draw({name: value.shape for name, value in own.items()}, seed)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(drawn[name])


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Copy every parameter and buffer, frozen ones included."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {name: value.detach().clone() for name, value in tensors}


def changed(module: nn.Module, before: Mapping[str, Tensor]) -> set[str]:
    """Name the tensors that are no longer bit-equal to a `snapshot`."""
    after = snapshot(module)
    return {name for name in before.keys() | after.keys() if not after[name].equal(before[name])}
