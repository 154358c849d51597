"""HVT: build the product's classifier for a reference case and run it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.official import TRUNK, split_hvt
from hstpeft.official.hvt import hvt_names
from hstpeft.oracle.case import Case, Run, UnknownArgument
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
    """Run one forward pass (and backward, where the case has labels)."""
    blocks: dict[str, Tensor] = {}
    vit = model.backbone.trunk.vit
    # A block's output, pooled, is the input of the norm behind it.
    for index, norm in enumerate([*(block.norm1 for block in vit.blocks[1:]), vit.norm]):
        keep_input(norm, blocks, f'block{index}')
    (feature,) = model.backbone(case.inputs['input'])
    outputs = {**blocks, 'feature': feature, 'logits': model.head((feature,))}
    outputs['last_block'] = blocks[f'block{len(vit.blocks) - 1}']
    outputs['sequence_lengths'] = torch.tensor([x.shape[1] for x in blocks.values()])
    if case.labels is not None:
        outputs['loss'] = F.cross_entropy(outputs['logits'], case.labels)
        outputs['loss'].backward()
    return Run(outputs, {hvt_names(own): p for own, p in trainable(model).items()})
