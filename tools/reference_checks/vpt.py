"""VPT on ViT and Swin: build the product's classifier for a reference case and run it."""

import itertools

import torch
from torch import Tensor, nn

from hstpeft.official.vpt import prompt_rows, split_vpt
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
from tools.reference_checks.trunks import SWIN_ARGUMENTS, swin_trunk, vit_trunk

_READ = {
    'model', 'transfer type', 'location', 'NUM_TOKENS', 'DEEP', 'PROJECT', 'classes',
    'head hidden layers', 'prompt dropout', 'all dropout',
}  # fmt: skip
_READ_VIT = {'hidden size', 'heads', 'layers', 'mlp size', 'image size', 'patch size'}


def build(case: Case) -> nn.Module:
    """Build the classifier that a config would, filled with the case's weights."""
    a = case.arguments
    is_swin = 'depths' in a
    unknown = a.keys() - _READ - (SWIN_ARGUMENTS if is_swin else _READ_VIT)
    is_usual = (a['transfer type'], a['location'], a['head hidden layers']) == (
        'prompt', 'prepend', 0,
    )  # fmt: skip
    # Only the prompts drop: officially the frozen trunk stays in eval mode.
    if unknown or not is_usual or (a['prompt dropout'] and case.mode == 'train'):
        raise UnknownArgument(f'arguments {sorted(unknown) or a} are not understood')
    weights, delta, _ = split_vpt(case.weights)
    trunk = swin_trunk(weights, a) if is_swin else vit_trunk(weights, a)
    tuner = dict(
        type='hstpeft.VPTTuner',
        num_tokens=a['NUM_TOKENS'],
        deep=a['DEEP'],
        prompt_dims=a['PROJECT'] if a['PROJECT'] > -1 else None,
        drop_rate=a['prompt dropout'],
    )
    width = case.weights['head.last_layer.weight'].shape[1]
    return fill(classifier(trunk, tuner, a['classes'], width), delta)


def run(case: Case, model: nn.Module) -> Run:
    """Run one forward pass and backward."""
    outputs: dict[str, Tensor] = {}
    trunk, tuner = model.backbone.trunk, model.backbone.tuner
    if 'depths' in case.arguments:
        starts = list(itertools.accumulate(trunk.stage_depths))[:-1]
        keep_entries(tuner, {at: f'stage{s}' for s, at in enumerate(starts)}, outputs)
        keep_input(trunk.net.norm, outputs, f'stage{len(starts)}')
    else:
        keep_entries(tuner, {1: 'layer0'}, outputs)
        keep_output(trunk.net.norm, outputs, 'encoded')
        if trunk.num_layers == 1:
            keep_input(trunk.net.norm, outputs, 'layer0')
    outputs['logits'] = model.head(model.backbone(case.inputs['input']))
    add_loss(case, outputs)
    return Run(outputs, official_parameters(case, model))


def official_parameters(case: Case, model: nn.Module) -> dict[str, nn.Parameter]:
    """Name the trainable parameters as officially; deep prompts are rows of one tensor there."""
    own, found = trainable(model), {}
    names = {name: key for key, name in split_vpt(case.weights)[2].items()}
    for key, rows in prompt_rows(case.weights).items():
        parts = [own.pop(name) for name in rows]
        # A single block has deep prompts without rows.
        value = torch.cat(parts) if parts else case.weights[key]
        found[key] = nn.Parameter(value.detach())
        if parts and all(part.grad is not None for part in parts):
            found[key].grad = torch.cat([part.grad for part in parts])
    return {**found, **{names[name]: parameter for name, parameter in own.items()}}
