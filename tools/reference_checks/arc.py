"""ARC on ViT and Swin: build the product's classifier for a reference case and run it."""

from torch import nn

from hstpeft.official import SWIN, TRUNK, split_arc
from hstpeft.official.arc import arc_swin_names, arc_vit_names
from hstpeft.oracle.case import Case, Run, UnknownArgument
from tools.reference_checks.classifier import (
    classifier,
    fill,
    run_classifier,
    trainable,
)
from tools.reference_checks.trunks import SWIN_ARGUMENTS, swin_trunk, vit_trunk

_POSITIONS = {'ARC': ('attention', 'mlp'), 'ARC_att': ('attention',)}
_READ_VIT = {
    'model', 'tuning mode', 'hidden size', 'heads', 'layers', 'mlp size', 'adapter_dim',
    'image size', 'patch size', 'classes', 'all dropout',
}  # fmt: skip
_READ_SWIN = {'model', 'tuning mode', 'svd_dim', 'classes', *SWIN_ARGUMENTS}


def is_swin(case: Case) -> bool:
    """Tell the Swin cases from the ViT ones."""
    return 'depths' in case.arguments


def build(case: Case) -> nn.Module:
    """Build the classifier that a config would, filled with the case's weights."""
    a = case.arguments
    unknown = a.keys() - (_READ_SWIN if is_swin(case) else _READ_VIT)
    dropping = a.get('all dropout') or a.get('drop path') or is_swin(case)
    if unknown or (dropping and case.mode == 'train'):
        raise UnknownArgument(f'arguments {sorted(unknown) or "with dropout"} are not understood')
    if a['tuning mode'] not in _POSITIONS:
        raise UnknownArgument(f'tuning mode {a["tuning mode"]!r} is not understood')
    trunk, delta = split_arc(case.weights)
    tuner = dict(
        type='hstpeft.ARCTuner',
        positions=_POSITIONS[a['tuning mode']],
        adapter_dims=a['svd_dim'] if is_swin(case) else a['adapter_dim'],
    )
    width = case.weights['head.weight' if is_swin(case) else 'head_mlp.head.weight'].shape[1]
    trunk_cfg = swin_trunk(trunk, a) if is_swin(case) else vit_trunk(trunk, a)
    return fill(classifier(trunk_cfg, tuner, a['classes'], width), delta)


def run(case: Case, model: nn.Module) -> Run:
    """Run one forward pass and backward."""
    outputs = run_classifier(case, model)
    return Run(outputs, official_parameters(case, model))


def official_parameters(case: Case, model: nn.Module) -> dict[str, nn.Parameter]:
    """Name the trainable parameters as officially."""
    positions = model.backbone.tuner.positions
    depths = model.backbone.trunk.stage_depths
    names = (
        arc_swin_names(depths, positions) if is_swin(case) else arc_vit_names(*depths, positions)
    )
    official = {own: key for key, own in names.items()}
    assert not any(name.startswith((SWIN, TRUNK)) for name in trainable(model))
    return {official[own]: parameter for own, parameter in trainable(model).items()}
