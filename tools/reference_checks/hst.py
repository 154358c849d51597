"""HST: build the product's classifier for a reference case and run it."""

from typing import Any

import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from hstpeft.official import TRUNK, hst_names, split_hst
from hstpeft.oracle.case import Case, Run, UnknownArgument

_READ = {
    'model',
    'image size',
    'patch size',
    'backbone width',
    'backbone depth',
    'backbone heads',
    'mlp ratio',
    'qkv bias',
    'classes',
    'side widths per stage (m_embed_dims)',
    'side cross-attention heads per stage (m_c_num_heads)',
    'side blocks per stage (m_depths)',
    'last backbone block of each stage (block_indices)',
    'meta tokens per block (metaG_num)',
    'dropout, attention dropout, drop path',
}


def build(case: Case) -> nn.Module:
    """Build the classifier that a config would, filled with the case's weights."""
    arguments = case.arguments
    unknown = arguments.keys() - _READ
    if unknown or (arguments['dropout, attention dropout, drop path'] and case.mode == 'train'):
        raise UnknownArgument(f'arguments {sorted(unknown) or "with dropout"} are not understood')
    depths = arguments['side blocks per stage (m_depths)']
    ends = arguments['last backbone block of each stage (block_indices)']
    if [end + 1 for end in ends] != [sum(depths[: s + 1]) for s in range(4)]:
        raise UnknownArgument(f'block_indices {ends} do not fit m_depths {depths}')
    trunk, delta = split_hst(case.weights)
    # The official arguments do not name it; the weights show it.
    hidden, width = case.weights['m_block1.0.mlp.fc1.weight'].shape
    model = MODELS.build(_config(arguments, trunk, hidden / width))
    state = model.state_dict()
    state.update(delta)
    state.update({TRUNK + key: trunk[key] for key in trunk if TRUNK + key in state})
    model.load_state_dict(state, strict=True)
    return model


def _config(arguments: dict[str, Any], trunk: dict[str, Tensor], side_mlp_ratio: float) -> dict:
    side_dims = arguments['side widths per stage (m_embed_dims)']
    size = arguments['image size']
    options = dict(
        img_size=tuple(size) if isinstance(size, list) else size,
        patch_size=arguments['patch size'],
        embed_dim=arguments['backbone width'],
        depth=arguments['backbone depth'],
        num_heads=arguments['backbone heads'],
        mlp_ratio=arguments['mlp ratio'],
        qkv_bias=arguments['qkv bias'],
    )
    tuner = dict(
        type='hstpeft.HSTTuner',
        side_dims=side_dims,
        side_heads=arguments['side cross-attention heads per stage (m_c_num_heads)'],
        side_depths=arguments['side blocks per stage (m_depths)'],
        tap_indices=range(sum(arguments['side blocks per stage (m_depths)'])),
        num_meta_tokens=arguments['meta tokens per block (metaG_num)'],
        mlp_ratio=side_mlp_ratio,
        qkv_bias=arguments['qkv bias'],
    )
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='hstpeft.TunedBackbone',
            trunk=dict(
                type='hstpeft.ViTTrunk',
                arch='vit_base_patch16_224',
                arch_options=options,
                weights=trunk,
            ),
            tuner=tuner,
        ),
        neck=dict(type='hstpeft.PooledNorm', in_channels=side_dims[-1]),
        head=dict(
            type='LinearClsHead', num_classes=arguments['classes'], in_channels=side_dims[-1]
        ),
    )


def run(case: Case, model: nn.Module) -> Run:
    """Run one forward pass (and backward, where the case has labels)."""
    outputs: dict[str, Tensor] = {}
    for number, norm in enumerate(_meta_norms(model), start=1):
        norm.register_forward_hook(
            lambda module, args, output, name=f'meta{number}': outputs.update({name: output})
        )
    maps = model.backbone(case.inputs['input'])
    outputs.update({f'stage{s}': x.flatten(2).transpose(1, 2) for s, x in enumerate(maps, 1)})
    outputs['pooled'] = maps[-1].mean(dim=(2, 3))
    outputs['logits'] = model.head(model.neck(maps))
    if case.labels is not None:
        outputs['loss'] = nn.functional.cross_entropy(outputs['logits'], case.labels)
        outputs['loss'].backward()
    depths = case.arguments['side blocks per stage (m_depths)']
    names = hst_names(depths, case.arguments['qkv bias'])
    buffers = dict(model.named_buffers())
    for official, own in names.items():
        if case.mode == 'train' and official.rpartition('.')[2].startswith('running_'):
            outputs[f'after/{official}'] = buffers[own]
    own_parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    official_names = {own: official for official, own in names.items()}
    parameters = {
        official_names.get(own, own.removeprefix(TRUNK)): p for own, p in own_parameters.items()
    }
    tensors = {name: torch.as_tensor(value) for name, value in outputs.items()}
    return Run(tensors, parameters, _behind_last_stage(case, sum(depths)))


def _behind_last_stage(case: Case, num_used: int) -> frozenset[str]:
    """Name what official HST trains in trunk blocks that no stage reads."""
    names = set()
    for block in range(num_used, case.arguments['backbone depth']):
        names.add(f'm_embeddings.{block}')
        parts = [f'blocks.{block}.norm1', f'blocks.{block}.norm2', f'm_proj_norm{block + 1}']
        names.update(f'{part}.{leaf}' for part in parts for leaf in ('weight', 'bias'))
    return frozenset(names)


def _meta_norms(model: nn.Module) -> list[nn.Module]:
    return [norm for stage in model.backbone.tuner.side.stages for norm in stage.meta_norms]
