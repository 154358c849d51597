"""SSF on ViT and Swin: build the product's classifier for a reference case and run it."""

from torch import Tensor, nn

from hstpeft.official.common import SWIN, TRUNK
from hstpeft.official.ssf import split_ssf, ssf_name
from hstpeft.oracle.case import Case, Run, UnknownArgument
from tools.reference_checks.classifier import (
    add_loss,
    classifier,
    fill,
    keep_input,
    keep_output,
    keep_stages,
    second_reader,
    trainable,
)
from tools.reference_checks.trunks import SWIN_ARGUMENTS, swin_trunk, vit_trunk

_READ_VIT = {
    'model', 'hidden size', 'layers', 'heads', 'mlp ratio', 'image size', 'patch size', 'classes',
    'qkv bias', 'all dropout',
}  # fmt: skip


def build(case: Case) -> nn.Module:
    """Build the classifier that a config would, filled with the case's weights."""
    a = case.arguments
    is_swin = 'depths' in a
    unknown = a.keys() - ({'model', 'classes', *SWIN_ARGUMENTS} if is_swin else _READ_VIT)
    dropping = a.get('all dropout') or a.get('drop path')
    if unknown or (dropping and case.mode == 'train'):
        raise UnknownArgument(f'arguments {sorted(unknown) or "with dropout"} are not understood')
    weights, delta = split_ssf(case.weights)
    trunk = swin_trunk(weights, a) if is_swin else vit_trunk(weights, a)
    width = case.weights['head.weight'].shape[1]
    return fill(classifier(trunk, dict(type='hstpeft.SSFTuner'), a['classes'], width), delta)


def run(case: Case, model: nn.Module) -> Run:
    """Run one forward pass and backward."""
    outputs: dict[str, Tensor] = {}
    trunk = model.backbone.trunk
    is_swin = 'depths' in case.arguments
    if is_swin:
        keep_stages(trunk.net, outputs)
    else:
        keep_input(second_reader(trunk.net), outputs, 'layer0')
        keep_output(trunk.net.norm, outputs, 'encoded')
    outputs['logits'] = model.head(model.backbone(case.inputs['input']))
    add_loss(case, outputs)
    outputs = {k: v.flatten(1, 2) if v.dim() == 4 else v for k, v in outputs.items()}
    net = SWIN if is_swin else TRUNK
    own = trainable(model)
    names = {ssf_name(key, net): key for key, *_ in case.meta['parameters']}
    return Run(outputs, {names[name]: parameter for name, parameter in own.items()})
