"""Forms of HST."""

import timm

from hstpeft.official import join_hst
from hstpeft.oracle.literal.hst import HSTOptions, LiteralHST
from tools.benchmarks.forms import (
    CLASSES,
    Forms,
    Logits,
    Setting,
    classifier,
    floors,
    images,
    plain_linears,
    tensor_mode,
    trunk_weights,
)


def build(setting: Setting) -> Forms:
    """Build every form of HST with the same weights."""
    weights = trunk_weights(setting.arch)
    neck = dict(type='hstpeft.PooledNorm', in_channels=72)
    head = dict(type='mmpretrain.LinearClsHead', num_classes=CLASSES, in_channels=72)
    ours, ours_mkl = (
        classifier(setting.arch, weights, dict(type='hstpeft.HSTTuner'), head, neck=neck)
        for _ in range(2)
    )
    ours_mkl.load_state_dict(ours.state_dict())
    trunk = ours.backbone.trunk
    depths = [len(stage.blocks) for stage in ours.backbone.tuner.side.stages]
    options = HSTOptions(num_heads=trunk.vit.blocks[0].attn.num_heads, side_depths=depths)
    literal = LiteralHST(join_hst(trunk.vit.state_dict(), ours.state_dict()), options)
    models = {
        'literal': Logits(literal, lambda model, image: model(image)[1]),
        'hstpeft, MKL': Logits(plain_linears(ours_mkl), tensor_mode),
        'hstpeft': Logits(ours, tensor_mode),
        'timm trunk': timm.create_model(setting.arch, num_classes=CLASSES),
        **floors(setting.arch, weights),
    }
    return Forms(models, images(setting), ('timm trunk',))
