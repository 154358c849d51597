"""SA2VP on ViT and Swin: build the product's classifier for a reference case and run it."""

from mmpretrain.structures import DataSample
from torch import Tensor, nn

from hstpeft.official.sa2vp import (
    is_tied,
    sa2vp_swin_names,
    sa2vp_vit_names,
    split_sa2vp,
)
from hstpeft.oracle.case import Case, Run, UnknownArgument
from tools.reference_checks.classifier import classifier, fill, keep_input, keep_output, trainable
from tools.reference_checks.trunks import swin_trunk, vit_trunk

_READ_VIT = {
    'model', 'version', 'hidden size', 'heads', 'mlp size', 'layers', 'image size', 'patch size',
    'grid', 'inter_dim', 'cross-attention heads', 'cross-attention head size', 'inter_weight',
    'layers with base-to-prompt adaptation', 'layers with a deep prompt', 'classes',
}  # fmt: skip
_READ_SWIN = {
    'model', 'embed width', 'depths', 'heads', 'window', 'image size', 'patch size', 'inter_dim',
    'cross-attention heads', 'inter_weight', 'classes', 'drop path',
}  # fmt: skip
_VERSIONS = {'plain': False, 'accelerated': True}


def is_swin(case: Case) -> bool:
    """Tell the Swin cases from the ViT ones."""
    return 'depths' in case.arguments


def build(case: Case) -> nn.Module:
    """Build the classifier that a config would, filled with the case's weights."""
    a = case.arguments
    unknown = a.keys() - (_READ_SWIN if is_swin(case) else _READ_VIT)
    if unknown or (case.mode == 'train' and a.get('drop path')):
        raise UnknownArgument(f'arguments {sorted(unknown) or "with drop path"} are not understood')
    tied = is_tied(case.weights)
    trunk, delta = split_sa2vp(case.weights, tied)
    tuner = dict(
        type='hstpeft.SA2VPTuner',
        inner_dims=a['inter_dim'],
        mixing_weight=a['inter_weight'],
        tie_cross_attention=tied,
    )
    if is_swin(case):
        if a['cross-attention heads'] != a['heads'][2]:
            raise UnknownArgument('cross-attention heads that are not those of the third stage')
        # The official code counts by sixes, whatever the depth.
        tuner['exchange_indices'] = tuple(range(0, a['depths'][2], 6))
        trunk_cfg = swin_trunk(trunk, a)
    else:
        if a['version'] not in _VERSIONS:
            raise UnknownArgument(f'version {a["version"]!r} is not understood')
        tuner |= dict(
            accelerated=_VERSIONS[a['version']],
            exchange_indices=a['layers with base-to-prompt adaptation'],
            deep_prompt_indices=a['layers with a deep prompt'],
        )
        heads = 1 if tuner['accelerated'] else a['heads']
        if a['cross-attention heads'] != heads:
            raise UnknownArgument(f'{a["cross-attention heads"]} cross-attention heads')
        trunk_cfg = vit_trunk(trunk, {**a, 'image size': _pixels(a)})
    width = case.weights['class_head.weight'].shape[1]
    model = classifier(trunk_cfg, tuner, a['classes'], width, head='hstpeft.TwoBranchClsHead')
    return fill(model, delta)


def run(case: Case, model: nn.Module) -> Run:
    """Run one forward pass, and backward if there are labels."""
    outputs: dict[str, Tensor] = {}
    tuner, trunk = model.backbone.tuner, model.backbone.trunk
    for index, cross in enumerate(tuner.cross[:2]):
        keep_output(cross, outputs, f'fusion{index}')
    if is_swin(case):
        _keep_third_stage(trunk, outputs)
        names = sa2vp_swin_names(trunk.stage_depths, tuner.tie_cross_attention)
    else:
        names = sa2vp_vit_names(trunk.num_layers, len(tuner.deep), tuner.tie_cross_attention)
    feats = model.backbone(case.inputs['input'])
    outputs['base_feature'], outputs['prompt_feature'] = feats[-1]
    outputs['logits'] = model.head(feats)
    outputs['prompt_logits'] = model.head.fc(feats[-1][1])
    if is_swin(case):
        stage = outputs.pop('stage2').flatten(1, 2)
        outputs['stage2_base'], outputs['stage2_prompt'] = stage.chunk(2)
    if case.labels is not None:
        samples = [DataSample().set_gt_label(label) for label in case.labels]
        outputs['loss'] = sum(model.head.loss(feats, samples).values())
        outputs['loss'].backward()
    official = {own: key for key, own in names.items()}
    return Run(outputs, {official[own]: p for own, p in trainable(model).items()})


def _keep_third_stage(trunk: nn.Module, outputs: dict[str, Tensor]) -> None:
    """Keep the tokens behind the third stage, merged if there is a fourth."""
    if len(trunk.swin.layers) > 3:
        keep_output(trunk.swin.layers[3].downsample, outputs, 'stage2')
    else:
        keep_input(trunk.swin.norm, outputs, 'stage2')


def _pixels(a: dict) -> tuple[int, int]:
    """Return the image size (height, width) of a case; a rectangle shows in its grid."""
    return tuple(cells * a['patch size'] for cells in a['grid'])
