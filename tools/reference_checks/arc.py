"""ARC on ViT and Swin: build the product's classifier for a reference case and run it."""

from torch import Tensor, nn

from hstpeft.official import SWIN, TRUNK, split_arc
from hstpeft.official.arc import arc_swin_names, arc_vit_names
from hstpeft.oracle.case import Case, Run, UnknownArgument
from tools.reference_checks.classifier import (
    add_loss,
    classifier,
    fill,
    keep_input,
    keep_output,
    mlp_ratio,
    second_reader,
    trainable,
)

_POSITIONS = {'ARC': ('attention', 'mlp'), 'ARC_att': ('attention',)}
_READ_VIT = {
    'model', 'tuning mode', 'hidden size', 'heads', 'layers', 'mlp size', 'adapter_dim',
    'image size', 'patch size', 'classes', 'all dropout',
}  # fmt: skip
_READ_SWIN = {
    'model', 'tuning mode', 'embed width', 'depths', 'heads', 'window', 'image size', 'patch size',
    'svd_dim', 'classes', 'mlp ratio', 'qkv bias', 'drop path',
}  # fmt: skip


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
    if is_swin(case):
        options = dict(
            img_size=a['image size'],
            patch_size=a['patch size'],
            embed_dim=a['embed width'],
            depths=tuple(a['depths']),
            num_heads=tuple(a['heads']),
            window_size=a['window'],
            mlp_ratio=a['mlp ratio'],
            qkv_bias=a['qkv bias'],
        )
        trunk_cfg = dict(type='hstpeft.SwinTrunk', arch='swin_base_patch4_window7_224')
    else:
        options = dict(
            img_size=a['image size'],
            patch_size=a['patch size'],
            embed_dim=a['hidden size'],
            depth=a['layers'],
            num_heads=a['heads'],
            mlp_ratio=mlp_ratio(a['mlp size'], a['hidden size']),
        )
        trunk_cfg = dict(type='hstpeft.ViTTrunk', arch='vit_base_patch16_224')
    tuner = dict(
        type='hstpeft.ARCTuner',
        positions=_POSITIONS[a['tuning mode']],
        adapter_dims=a['svd_dim'] if is_swin(case) else a['adapter_dim'],
    )
    width = case.weights['head.weight' if is_swin(case) else 'head_mlp.head.weight'].shape[1]
    model = classifier(
        dict(**trunk_cfg, arch_options=options, weights=trunk), tuner, a['classes'], width
    )
    return fill(model, delta)


def run(case: Case, model: nn.Module) -> Run:
    """Run one forward pass and backward."""
    outputs: dict[str, Tensor] = {}
    trunk = model.backbone.trunk
    if is_swin(case):
        layers = trunk.swin.layers
        for stage in range(len(layers)):
            if stage + 1 < len(layers):
                keep_output(layers[stage + 1].downsample, outputs, f'stage{stage}')
            else:
                keep_input(trunk.swin.norm, outputs, f'stage{stage}')
    else:
        keep_input(second_reader(trunk.vit), outputs, 'layer0')
        keep_output(trunk.vit.norm, outputs, 'encoded')
    outputs['logits'] = model.head(model.backbone(case.inputs['input']))
    add_loss(case, outputs)
    outputs = {k: v.flatten(1, 2) if v.dim() == 4 else v for k, v in outputs.items()}
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
