"""ARC as product and as literal form, with the same weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hstpeft.official import SWIN, TRUNK
from hstpeft.official.arc import arc_swin_names, arc_vit_names
from hstpeft.official.common import Names, split_trunk, translate
from hstpeft.oracle.literal.arc import ARCOptions, LiteralARC
from hstpeft.oracle.literal.arc_shapes import POSITIONS, arc_swin_shapes, arc_vit_shapes
from tests.support.models import ARCH, build, draw, images

CLASSES = 5
SWIN_ARCH = 'swin_tiny_patch4_window7_224'
VIT_DEFAULTS = dict(
    width=32, depth=3, heads=2, grid=(4, 4), patch=8, dims=6, mlp_dims=64, positions=POSITIONS,
    drop_rate=0.0,
)  # fmt: skip
SWIN_DEFAULTS = dict(
    width=16, depths=(2, 2), heads=(2, 4), grid=(8, 8), patch=2, window=4, dims=6, mlp_ratio=2.0,
    positions=POSITIONS, drop_rate=0.0, drop_path_rate=0.0,
)  # fmt: skip


def case_of(case: Mapping) -> dict[str, Any]:
    """Add the defaults of the case's trunk family."""
    return {**(SWIN_DEFAULTS if 'depths' in case else VIT_DEFAULTS), **case}


def make_pair(
    case: Mapping, seed: int = 3
) -> tuple[nn.Module, LiteralARC, dict[str, str | tuple[str, int]]]:
    """Build product and literal with the same float64 weights; also official name -> own name."""
    c = case_of(case)
    official, names = official_weights(c, seed)
    swin = 'depths' in c
    trunk, delta = split_trunk(translate(official, names, 'ARC'), SWIN if swin else TRUNK)
    model = build(classifier(c, trunk), seed=None)
    model.load_state_dict({**model.state_dict(), **delta}, strict=True)
    options = ARCOptions(c['heads'], c.get('window', 0), c['drop_rate'], c.get('drop_path_rate', 0))
    return model.double(), LiteralARC(official, options).double(), names


def official_weights(c: Mapping, seed: int) -> tuple[dict[str, Tensor], Names]:
    """Draw an official checkpoint (with one position too, which official Swin does not have)."""
    if 'depths' in c:
        shapes = arc_swin_shapes(
            c['width'], c['depths'], c['heads'], c['grid'], c['patch'], c['window'], CLASSES,
            c['dims'], c['mlp_ratio'], c['positions'],
        )  # fmt: skip
        return draw(shapes, seed), arc_swin_names(c['depths'], c['positions'])
    shapes = arc_vit_shapes(
        c['width'], c['depth'], c['grid'], c['patch'], CLASSES, c['dims'], c['mlp_dims'],
        c['positions'],
    )  # fmt: skip
    return draw(shapes, seed), arc_vit_names(c['depth'], c['positions'])


def classifier(c: Mapping, weights: Mapping[str, Tensor] | None) -> dict:
    """Config of the classifier of a case."""
    tuner = dict(
        type='hstpeft.ARCTuner', positions=c['positions'], adapter_dims=c['dims'],
        drop_rate=c['drop_rate'],
    )  # fmt: skip
    width = c['width'] * 2 ** (len(c['depths']) - 1) if 'depths' in c else c['width']
    return dict(
        type='ImageClassifier',
        backbone=dict(type='hstpeft.TunedBackbone', trunk=trunk_config(c, weights), tuner=tuner),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=width),
    )


def trunk_config(c: Mapping, weights: Mapping[str, Tensor] | None) -> dict:
    """Config of the trunk of a case."""
    size = tuple(n * c['patch'] for n in c['grid'])
    if 'depths' in c:
        return swin_config(
            weights, embed_dim=c['width'], depths=c['depths'], num_heads=c['heads'],
            patch_size=c['patch'], img_size=size, window_size=c['window'],
            mlp_ratio=c['mlp_ratio'], drop_path_rate=c['drop_path_rate'],
        )  # fmt: skip
    options = dict(
        embed_dim=c['width'], depth=c['depth'], num_heads=c['heads'], patch_size=c['patch'],
        img_size=size, mlp_ratio=c['mlp_dims'] / c['width'], weight_init='skip',
    )  # fmt: skip
    return dict(type='hstpeft.ViTTrunk', arch=ARCH, arch_options=options, weights=weights)


def swin_config(weights: Mapping[str, Tensor] | None, **options: Any) -> dict:
    """Config of a Swin trunk."""
    return dict(type='hstpeft.SwinTrunk', arch=SWIN_ARCH, arch_options=options, weights=weights)


def case_images(case: Mapping, batch: int = 3) -> Tensor:
    """Draw images of the case's size."""
    c = case_of(case)
    return images(batch, 3, *(n * c['patch'] for n in c['grid'])).double()


def run(model: nn.Module, image: Tensor) -> tuple[list[Tensor], Tensor]:
    """Run the product; each output of its trunk (B, L, C) as of the literal form, and the logits."""
    backbone = model.backbone
    count = len(backbone.trunk.output_strides)
    tokens, grid = backbone.trunk.embed(image)
    taps = backbone.tuner.run(backbone.trunk, tokens, grid, range(count))
    outputs = [taps[index] for index in range(count)]
    last = backbone.trunk.final_norm(outputs[-1])
    if last.dim() == 4:
        outputs = [x.flatten(1, 2) for x in outputs]
        return outputs, model.head((backbone.trunk.pool(last),))
    return [*outputs, last], model.head((last[:, 0],))


def gradients(
    model: nn.Module, literal: LiteralARC, names: Mapping[str, Any]
) -> dict[str, tuple[Tensor | None, Tensor | None]]:
    """Official name -> gradients of product and literal form, of all that either trains."""
    own = dict(model.named_parameters())
    found = {}
    for official, attribute in literal.names.items():
        expected = getattr(literal, attribute)
        name = names[official]
        parameter = own[name if isinstance(name, str) else name[0]]
        assert parameter.requires_grad == expected.requires_grad, official
        if expected.requires_grad:
            found[official] = (parameter.grad, expected.grad)
    assert len(found) == sum(parameter.requires_grad for parameter in own.values())
    return found


def loss_of(outputs: Sequence[Tensor], logits: Tensor) -> Tensor:
    """Make a loss that every output moves."""
    labels = torch.arange(len(logits)) % CLASSES
    return nn.functional.cross_entropy(logits, labels) + sum(x.square().mean() for x in outputs)
