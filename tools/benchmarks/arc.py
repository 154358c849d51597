"""Forms of ARC, and of its merged model beside the bare trunk."""

import torch

from hstpeft.delta.merge import merge
from hstpeft.official import join_arc
from hstpeft.oracle.literal.arc import ARCOptions, LiteralARC
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
    """Build every form of ARC with the same weights."""
    weights = trunk_weights(setting.arch)
    width = weights['cls_token'].shape[-1]
    head = dict(type='mmpretrain.LinearClsHead', num_classes=CLASSES, in_channels=width)
    ours, ours_mkl = (
        classifier(setting.arch, weights, dict(type='hstpeft.ARCTuner'), head) for _ in range(2)
    )
    for scale in ours.backbone.tuner.attention.scales:
        torch.nn.init.xavier_uniform_(scale)
    ours_mkl.load_state_dict(ours.state_dict())
    trunk = ours.backbone.trunk
    literal = LiteralARC(
        join_arc(trunk.vit.state_dict(), ours.state_dict()),
        ARCOptions(num_heads=trunk.vit.blocks[0].attn.num_heads),
    )
    bare = classifier(setting.arch, weights, dict(type='hstpeft.FrozenTuner'), head)
    models = {
        'literal': Logits(literal, lambda model, image: model(image)[1]),
        'hstpeft, MKL': Logits(plain_linears(ours_mkl), tensor_mode),
        'hstpeft': Logits(ours, tensor_mode),
        'merged': Logits(merge(ours)[1], tensor_mode),
        'bare trunk': Logits(bare, tensor_mode),
        **floors(setting.arch, weights),
    }
    return Forms(models, images(setting), ('merged', 'bare trunk'))
