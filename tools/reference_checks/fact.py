"""FacT on a ViT: build the product's classifier for a reference case and run it."""

import functools

from torch import nn

from hstpeft.official.fact import join_fact, split_fact
from hstpeft.oracle.case import Case, Run, UnknownArgument
from tools.reference_checks.classifier import (
    classifier,
    fill,
    renamed,
    run_classifier,
)
from tools.reference_checks.trunks import VIT_ARGUMENTS, vit_trunk

_READ = {'model', 'kind', 'rank', 'scale', 'classes', *VIT_ARGUMENTS}


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
    outputs = run_classifier(case, model)
    return Run(outputs, renamed(model, functools.partial(join_fact, {})))
