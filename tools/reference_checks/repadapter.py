"""RepAdapter on ViT and Swin: build the product's classifier for a reference case and run it."""

import functools

from torch import Tensor, nn

from hstpeft.official.repadapter import join_repadapter, split_repadapter
from hstpeft.oracle.case import Case, Run, UnknownArgument
from tools.reference_checks.classifier import (
    add_loss,
    classifier,
    fill,
    keep_input,
    keep_output,
    keep_stages,
    renamed,
    second_reader,
)
from tools.reference_checks.trunks import SWIN_ARGUMENTS, swin_trunk, vit_trunk

_READ = {'model', 'method', 'dim', 'scale', 'groups', 'classes'}
_READ_VIT = {
    'hidden size', 'layers', 'heads', 'mlp ratio', 'image size', 'patch size', 'qkv bias',
    'all dropout',
}  # fmt: skip
_POSITIONS = {'repblock': ['attention', 'mlp'], 'repattn': ['attention']}


def build(case: Case) -> nn.Module:
    """Build the classifier that a config would, filled with the case's weights."""
    a = case.arguments
    is_swin = 'depths' in a
    unknown = a.keys() - _READ - (SWIN_ARGUMENTS if is_swin else _READ_VIT)
    # The adapters' dropout is a constant of the official code.
    if unknown or case.mode == 'train':
        raise UnknownArgument(f'arguments {sorted(unknown) or "with dropout"} are not understood')
    if a['method'] not in _POSITIONS:
        raise UnknownArgument(f'method {a["method"]!r} is none of {list(_POSITIONS)}')
    weights, delta = split_repadapter(case.weights)
    trunk = swin_trunk(weights, a) if is_swin else vit_trunk(weights, a)
    tuner = dict(
        type='hstpeft.RepAdapterTuner',
        positions=_POSITIONS[a['method']],
        adapter_dims=a['dim'],
        num_groups=a['groups'],
        scale=a['scale'],
    )
    width = case.weights['head.weight'].shape[1]
    return fill(classifier(trunk, tuner, a['classes'], width), delta)


def run(case: Case, model: nn.Module) -> Run:
    """Run one forward pass and backward."""
    outputs: dict[str, Tensor] = {}
    net = model.backbone.trunk.net
    if 'depths' in case.arguments:
        keep_stages(net, outputs)
    else:
        keep_input(second_reader(net), outputs, 'layer0')
        keep_output(net.norm, outputs, 'encoded')
    outputs['logits'] = model.head(model.backbone(case.inputs['input']))
    add_loss(case, outputs)
    outputs = {k: v.flatten(1, 2) if v.dim() == 4 else v for k, v in outputs.items()}
    return Run(outputs, renamed(model, functools.partial(join_repadapter, net.state_dict())))
