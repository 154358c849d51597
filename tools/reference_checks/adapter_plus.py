"""Adapter+ and its kin: build the product's classifier for a reference case and run it."""

from torch import nn

from hstpeft.official.adapter_plus import adapter_plus_names, split_adapter_plus
from hstpeft.official.common import TRUNK
from hstpeft.oracle.case import Case, Run, UnknownArgument
from tools.reference_checks.classifier import (
    classifier,
    fill,
    run_classifier,
    trainable,
)
from tools.reference_checks.trunks import VIT_ARGUMENTS, vit_trunk

_READ = {
    'model', 'classes', 'layer scale', 'config', 'dim', 'scaling', 'norm_layer', 'act_layer', 'bias',
    'attn_adapter', 'train_ln', 'init', 'dropout', 'drop_path', *VIT_ARGUMENTS,
}  # fmt: skip
_DROPPING = ('dropout', 'drop_path', 'all dropout')


def build(case: Case) -> nn.Module:
    """Build the classifier that a config would, filled with the case's weights."""
    a = case.arguments
    unknown = a.keys() - _READ
    dropping = case.mode == 'train' and any(a.get(name) for name in _DROPPING)
    if unknown or dropping:
        raise UnknownArgument(f'arguments {sorted(unknown) or "with dropout"} are not understood')
    weights, delta = split_adapter_plus(case.weights)
    if a['config'] != 'houlsby':  # which alone runs the adapter behind the attention
        delta = {key: value for key, value in delta.items() if '.attn_adapters.' not in key}
    scale = dict(init_values=1.0) if 'blocks.0.ls1.gamma' in weights else {}
    tuner = dict(
        type='hstpeft.AdapterPlusTuner',
        form=a['config'],
        adapter_dims=a['dim'],
        scale=a['scaling'],
        adapter_norm='in' if a['norm_layer'] else 'none',
        bias=a['bias'],
        activation=a['act_layer'],
        train_norms=a['train_ln'],
        drop_path_rate=0.0,
    )
    width = case.weights['head.weight'].shape[1]
    return fill(classifier(vit_trunk(weights, a, **scale), tuner, a['classes'], width), delta)


def run(case: Case, model: nn.Module) -> Run:
    """Run one forward pass and backward."""
    outputs = run_classifier(case, model)
    names = {own: key for key, own in adapter_plus_names(model.backbone.trunk.num_layers).items()}
    parameters = {names.get(n, n.removeprefix(TRUNK)): p for n, p in trainable(model).items()}
    idle = [] if case.arguments['config'] == 'houlsby' else [
        key for key, _, trained in case.meta['parameters'] if trained and '.adapter_attn.' in key
    ]  # fmt: skip
    return Run(outputs, parameters, frozenset(idle))
