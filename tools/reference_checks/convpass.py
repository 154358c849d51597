"""Convpass on ViT and Swin: build the product's classifier for a reference case and run it."""

from torch import nn

from hstpeft.official.convpass import convpass_names, split_convpass
from hstpeft.oracle.case import Case, Run, UnknownArgument
from tools.reference_checks.classifier import (
    classifier,
    fill,
    run_classifier,
    trainable,
)
from tools.reference_checks.trunks import SWIN_ARGUMENTS, VIT_ARGUMENTS, swin_trunk, vit_trunk

_READ = {'model', 'method', 'dim', 'scale', 'classes'}
_POSITIONS = {'convpass': ('attention', 'mlp'), 'convpass_attn': ('attention',)}


def build(case: Case) -> nn.Module:
    """Build the classifier that a config would, filled with the case's weights."""
    a = case.arguments
    is_swin = 'depths' in a
    unknown = a.keys() - _READ - (SWIN_ARGUMENTS if is_swin else VIT_ARGUMENTS)
    # The bypasses' dropout is a constant of the official code.
    if unknown or case.mode == 'train':
        raise UnknownArgument(f'arguments {sorted(unknown) or "with dropout"} are not understood')
    if a['method'] not in _POSITIONS:
        raise UnknownArgument(f'method {a["method"]!r} is not understood')
    weights, delta = split_convpass(case.weights)
    tuner = dict(
        type='hstpeft.ConvpassTuner',
        positions=_POSITIONS[a['method']],
        adapter_dims=a['dim'],
        scale=a['scale'],
    )
    width = case.weights['head.weight'].shape[1]
    trunk = swin_trunk(weights, a) if is_swin else vit_trunk(weights, a)
    return fill(classifier(trunk, tuner, a['classes'], width), delta)


def run(case: Case, model: nn.Module) -> Run:
    """Run one forward pass and backward."""
    outputs = run_classifier(case, model)
    names = {name: key for key, name in convpass_names(case.weights).items()}
    return Run(outputs, {names[name]: p for name, p in trainable(model).items()})
