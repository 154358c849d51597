"""Forms of HMA's head: features in, logits out; queue of 512, and the official other sizes."""

import torch

from hstpeft.models.heads import HMAClsHead
from hstpeft.official.hma import join_hma
from hstpeft.oracle.literal.hma import HMAOptions, LiteralHMA
from tools.benchmarks.forms import CLASSES, Forms, Logits, Setting, trunk_weights


def build(setting: Setting) -> Forms:
    """Build both forms of the head with the same weights; ``size`` of the setting plays no part."""
    width = trunk_weights(setting.arch)['cls_token'].shape[-1]
    head = HMAClsHead(CLASSES, width, batch_attention_at_test=True, attention=dict(drop_rate=0.0))
    state = {f'head.{key}': value for key, value in head.state_dict().items()}
    literal = LiteralHMA(join_hma({}, state), HMAOptions())
    models = {
        'literal': Logits(literal, lambda model, features: model(features)[1]),
        'hstpeft': Logits(head, lambda model, features: model((features,))),
    }
    return Forms(models, torch.randn(setting.batch, width))
