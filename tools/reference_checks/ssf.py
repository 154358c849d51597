"""SSF on ViT and Swin: build the product's classifier for a reference case and run it."""

from torch import nn

from hstpeft.official.common import SWIN, TRUNK
from hstpeft.official.ssf import split_ssf, ssf_name
from hstpeft.oracle.case import Case, Run, UnknownArgument
from tools.reference_checks.classifier import (
    classifier,
    fill,
    run_classifier,
    trainable,
)
from tools.reference_checks.trunks import SWIN_ARGUMENTS, VIT_ARGUMENTS, swin_trunk, vit_trunk


def build(case: Case) -> nn.Module:
    """Build the classifier that a config would, filled with the case's weights."""
    a = case.arguments
    is_swin = 'depths' in a
    unknown = a.keys() - {'model', 'classes'} - (SWIN_ARGUMENTS if is_swin else VIT_ARGUMENTS)
    dropping = a.get('all dropout') or a.get('drop path')
    if unknown or (dropping and case.mode == 'train'):
        raise UnknownArgument(f'arguments {sorted(unknown) or "with dropout"} are not understood')
    weights, delta = split_ssf(case.weights)
    trunk = swin_trunk(weights, a) if is_swin else vit_trunk(weights, a)
    width = case.weights['head.weight'].shape[1]
    return fill(classifier(trunk, dict(type='hstpeft.SSFTuner'), a['classes'], width), delta)


def run(case: Case, model: nn.Module) -> Run:
    """Run one forward pass and backward."""
    outputs = run_classifier(case, model)
    net = SWIN if 'depths' in case.arguments else TRUNK
    own = trainable(model)
    names = {ssf_name(key, net): key for key, *_ in case.meta['parameters']}
    return Run(outputs, {names[name]: parameter for name, parameter in own.items()})
