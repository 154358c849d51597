"""AdaptFormer: build the product's classifier for a reference case and run it."""

from torch import Tensor, nn

from hstpeft.official.adaptformer import split_adaptformer
from hstpeft.oracle.case import Case, Run, UnknownArgument
from tools.reference_checks.classifier import (
    add_loss,
    classifier,
    fill,
    keep_entries,
    keep_input,
    keep_output,
    trainable,
)
from tools.reference_checks.trunks import vit_trunk

_READ = {
    'model', 'hidden size', 'layers', 'heads', 'mlp ratio', 'image size', 'patch size', 'classes',
    'ffn_num', 'ffn_option', 'ffn_adapter_scalar', 'ffn_adapter_layernorm_option', 'global_pool',
    'vpt_num', 'qkv bias', 'all dropout',
}  # fmt: skip


def build(case: Case) -> nn.Module:
    """Build the classifier that a config would, filled with the case's weights."""
    a = case.arguments
    unknown = a.keys() - _READ
    # The adapter's dropout is a constant of the official code.
    if unknown or case.mode == 'train':
        raise UnknownArgument(f'arguments {sorted(unknown) or "with dropout"} are not understood')
    adapter_norm = a['ffn_adapter_layernorm_option']
    weights, delta, _ = split_adaptformer(case.weights, adapter_norm)
    pooling = dict(global_pool='avg') if a['global_pool'] else {}
    trunk = vit_trunk(weights, a, **pooling)
    is_learned = a['ffn_adapter_scalar'] == 'learnable_scalar'
    tuner = dict(
        type='hstpeft.AdaptFormerTuner',
        form=a['ffn_option'],
        adapter_dims=a['ffn_num'],
        scale='learned' if is_learned else float(a['ffn_adapter_scalar']),
        adapter_norm=adapter_norm,
        num_prompt_tokens=a['vpt_num'],
    )
    width = case.weights['head.1.weight'].shape[1]
    out_type = 'avg_featmap' if a['global_pool'] else 'cls_token'
    neck = dict(type='hstpeft.PooledNorm', in_channels=width)
    return fill(classifier(trunk, tuner, a['classes'], width, out_type, neck=neck), delta)


def run(case: Case, model: nn.Module) -> Run:
    """Run one forward pass and backward."""
    outputs: dict[str, Tensor] = {}
    trunk, tuner = model.backbone.trunk, model.backbone.tuner
    keep_entries(tuner, {1: 'layer0'}, outputs)
    if trunk.num_layers == 1:
        keep_input(trunk.net.norm, outputs, 'layer0')
    keep_output(trunk.net.norm, outputs, 'encoded')
    outputs['logits'] = model.head(model.neck(model.backbone(case.inputs['input'])))
    add_loss(case, outputs)
    names = {
        name: key
        for key, name in split_adaptformer(case.weights, tuner.adapter_norm)[2].items()
        if isinstance(name, str)
    }
    return Run(outputs, {names[name]: p for name, p in trainable(model).items()})
