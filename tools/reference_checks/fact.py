"""FacT on a ViT: build the product's classifier for a reference case and run it."""

import functools

from torch import Tensor, nn

from hstpeft.official.fact import join_fact, split_fact
from hstpeft.oracle.case import Case, Run, UnknownArgument
from tools.reference_checks.classifier import (
    add_loss,
    classifier,
    fill,
    keep_input,
    keep_output,
    renamed,
    second_reader,
)
from tools.reference_checks.trunks import vit_trunk

_READ = {
    'model', 'kind', 'rank', 'scale', 'hidden size', 'layers', 'heads', 'mlp ratio', 'image size',
    'patch size', 'classes', 'qkv bias', 'all dropout',
}  # fmt: skip


def build(case: Case) -> nn.Module:
    """Build the classifier that a config would, filled with the case's weights."""
    a = case.arguments
    unknown = a.keys() - _READ
    # The dropout of the updates is a constant of the official code.
    if unknown or case.mode == 'train':
        raise UnknownArgument(f'arguments {sorted(unknown) or "with dropout"} are not understood')
    weights, delta = split_fact(case.weights)
    tuner = dict(type='hstpeft.FacTTuner', form=a['kind'].lower(), rank=a['rank'], scale=a['scale'])
    width = case.weights['head.weight'].shape[1]
    return fill(classifier(vit_trunk(weights, a), tuner, a['classes'], width), delta)


def run(case: Case, model: nn.Module) -> Run:
    """Run one forward pass and backward."""
    outputs: dict[str, Tensor] = {}
    net = model.backbone.trunk.net
    keep_input(second_reader(net), outputs, 'layer0')
    keep_output(net.norm, outputs, 'encoded')
    outputs['logits'] = model.head(model.backbone(case.inputs['input']))
    add_loss(case, outputs)
    return Run(outputs, renamed(model, functools.partial(join_fact, {})))
