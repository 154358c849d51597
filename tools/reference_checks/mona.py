"""Mona on the Swin of detectors: build the product's classifier for a reference case and run it."""

from torch import nn

from hstpeft.official.mona import mona_names, split_mona
from hstpeft.oracle.case import Case, Run, UnknownArgument
from tools.reference_checks.classifier import classifier, fill, run_classifier, trainable
from tools.reference_checks.trunks import SWIN_ARGUMENTS, swin_trunk

_READ = {'model', 'classes', 'bottleneck'}


def build(case: Case) -> nn.Module:
    """Build the classifier that a config would, filled with the case's weights."""
    a = case.arguments
    unknown = a.keys() - _READ - SWIN_ARGUMENTS
    # The adapters' dropout is a constant of the official code.
    if unknown or case.mode == 'train':
        raise UnknownArgument(f'arguments {sorted(unknown) or "with dropout"} are not understood')
    weights, delta = split_mona(case.weights)
    trunk = dict(swin_trunk(weights, a), detection_style=True)
    tuner = dict(type='hstpeft.MonaTuner', adapter_dims=a['bottleneck'])
    width = case.weights['head.fc.weight'].shape[1]
    return fill(classifier(trunk, tuner, a['classes'], width), delta)


def run(case: Case, model: nn.Module) -> Run:
    """Run one forward pass and backward."""
    outputs = run_classifier(case, model)
    names = {name: key for key, name in mona_names(case.weights).items()}
    return Run(outputs, {names[name]: p for name, p in trainable(model).items()})
