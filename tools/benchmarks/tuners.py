"""Every tuner part on one trunk, beside full fine-tuning: what a step costs and keeps."""

from mmengine.config import Config
from torch import nn

from hstpeft.delta.merge import merge
from hstpeft.engine.config import config_root
from hstpeft.errors import UserError
from tools.benchmarks.forms import (
    CLASSES,
    Forms,
    Logits,
    Setting,
    classifier,
    images,
    tensor_mode,
    trunk_weights,
)
from tools.compare_tuners import list_tuners


def build(setting: Setting) -> Forms:
    """Build a classifier with each tuner; full fine-tuning is what the others are compared with."""
    weights = trunk_weights(setting.arch)
    names = ['full', *(name for name in list_tuners() if name != 'full')]
    built = {name: build_one(name, setting, weights) for name in names}
    facts = {name: {'merges': merges(model)} for name, model in built.items()}
    models = {name: Logits(model, tensor_mode) for name, model in built.items()}
    return Forms(models, images(setting), facts=facts)


def build_one(name: str, setting: Setting, weights: dict) -> nn.Module:
    """Build the classifier that a leaf with this tuner part builds."""
    tuner = Config.fromfile(config_root() / '_base_' / 'tuners' / f'{name}.py').tuner
    has_side = name.startswith('hst')
    width = tuner.side_dims[-1] if has_side else weights['cls_token'].shape[-1]
    kind = 'hstpeft.TwoBranchClsHead' if name.startswith('sa2vp') else 'mmpretrain.LinearClsHead'
    head = dict(type=kind, num_classes=CLASSES, in_channels=width)
    neck = dict(neck=dict(type='hstpeft.PooledNorm', in_channels=width)) if has_side else {}
    return classifier(setting.arch, weights, tuner, head, **neck)


def merges(model: nn.Module) -> bool:
    """Whether a model's tuner can be folded into its trunk."""
    try:
        merge(model)
    except UserError:
        return False
    return True
