"""HVT: build the product's classifier for a reference case and run it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.delta.official import TRUNK, split_hvt
from hstpeft.delta.official.hvt import hvt_names
from tools.reference_checks.case import Case, Run, UnknownArgument
from tools.reference_checks.classifier import classifier, fill, keep_input, trainable

_READ = {
    'model', 'width', 'heads', 'head size', 'blocks', 'image size', 'patch size',
    'pool_kernel_size', 'pool stride (constant)', 'pool_block_width', 'classes', 'mlp ratio',
    'qkv bias',
}  # fmt: skip


def build(case: Case) -> nn.Module:
    """Build the classifier that a config would, filled with the case's weights."""
    a = case.arguments
    unknown = a.keys() - _READ
    if unknown or a['head size'] * a['heads'] != a['width']:
        raise UnknownArgument(f'arguments {sorted(unknown) or "head size"} are not understood')
    trunk, head = split_hvt(case.weights)
    options = dict(
        img_size=a['image size'],
        patch_size=a['patch size'],
        embed_dim=a['width'],
        depth=a['blocks'],
        num_heads=a['heads'],
        mlp_ratio=a['mlp ratio'],
        qkv_bias=a['qkv bias'],
    )
    trunk_cfg = dict(
        type='hstpeft.HVTTrunk',
        arch='hvt_s_1',
        arch_options=options,
        pool_width=a['pool_block_width'] or 0,
        pool_kernel_size=a['pool_kernel_size'],
        pool_stride=a['pool stride (constant)'],
        weights=trunk,
    )
    model = classifier(trunk_cfg, dict(type='hstpeft.FullTuner'), a['classes'], a['width'])
    return fill(model, {**head, **{TRUNK + key: value for key, value in trunk.items()}})


def run(case: Case, model: nn.Module) -> Run:
    """Run one forward pass and backward."""
    outputs: dict[str, Tensor] = {}
    trunk = model.backbone.trunk
    keep_input(trunk.vit.blocks[1].norm1, outputs, 'block0')
    keep_input(trunk.vit.norm, outputs, 'last_block')
    (outputs['feature'],) = model.backbone(case.inputs['input'])
    outputs['logits'] = model.head((outputs['feature'],))
    outputs['sequence_lengths'] = torch.tensor(trunk.sequence_lengths)
    outputs['loss'] = F.cross_entropy(outputs['logits'], case.labels)
    outputs['loss'].backward()
    return Run(outputs, {hvt_names(own): p for own, p in trainable(model).items()})
