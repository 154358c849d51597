"""Forms of SA2VP, the accelerated one; both branches' logits count in a training step."""

import torch
from torch import Tensor, nn

from hstpeft.official import join_sa2vp
from hstpeft.oracle.literal.sa2vp import LiteralSA2VP, SA2VPOptions
from tools.benchmarks.forms import (
    CLASSES,
    Forms,
    Logits,
    Setting,
    classifier,
    floors,
    images,
    plain_linears,
    trunk_weights,
)


def build(setting: Setting) -> Forms:
    """Build every form of SA2VP with the same weights; the floor runs two sequences."""
    weights = trunk_weights(setting.arch)
    tuner = dict(type='hstpeft.SA2VPTuner', accelerated=True)
    width = weights['cls_token'].shape[-1]
    head = dict(type='hstpeft.TwoBranchClsHead', num_classes=CLASSES, in_channels=width)
    ours, ours_mkl = (classifier(setting.arch, weights, tuner, head) for _ in range(2))
    ours_mkl.load_state_dict(ours.state_dict())
    trunk = ours.backbone.trunk
    options = SA2VPOptions(
        trunk.vit.blocks[0].attn.num_heads,
        trunk.grid_size,
        accelerated=True,
        exchange_indices=ours.backbone.tuner.exchange,
        deep_prompt_indices=ours.backbone.tuner.deep,
    )
    official = join_sa2vp(trunk.vit.state_dict(), ours.state_dict())
    models = {
        'literal': Logits(LiteralSA2VP(official, options), _literal_logits),
        'hstpeft, MKL': Logits(plain_linears(ours_mkl), _logits),
        'hstpeft': Logits(ours, _logits),
        **floors(setting.arch, weights, copies=2),
    }
    return Forms(models, images(setting))


def _logits(model: nn.Module, image: Tensor) -> Tensor:
    feats = model.extract_feat(image)
    image_logits = model.head(feats)
    if not model.training:
        return image_logits
    return torch.cat([image_logits, model.head.fc(feats[-1][1])])


def _literal_logits(model: nn.Module, image: Tensor) -> Tensor:
    both = model(image)
    return torch.cat(both) if model.training else both[0]
