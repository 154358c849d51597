"""RepAdapter on ViT and Swin: build the product's classifier for a reference case and run it."""

import functools

from torch import nn

from hstpeft.official.repadapter import join_repadapter, split_repadapter
from hstpeft.oracle.case import Case, Run, UnknownArgument
from tools.reference_checks.classifier import (
    classifier,
    fill,
    renamed,
    run_classifier,
)
from tools.reference_checks.trunks import SWIN_ARGUMENTS, VIT_ARGUMENTS, swin_trunk, vit_trunk

_READ = {'model', 'method', 'dim', 'scale', 'groups', 'classes'}
_POSITIONS = {'repblock': ['attention', 'mlp'], 'repattn': ['attention']}


def build(case: Case) -> nn.Module:
    """Build the classifier that a config would, filled with the case's weights."""
    a = case.arguments
    is_swin = 'depths' in a
    unknown = a.keys() - _READ - (SWIN_ARGUMENTS if is_swin else VIT_ARGUMENTS)
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
    outputs = run_classifier(case, model)
    trunk = model.backbone.trunk.net.state_dict()
    return Run(outputs, renamed(model, functools.partial(join_repadapter, trunk)))
