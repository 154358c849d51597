"""HMA: build the product's classifier for a reference case and run it, step by step."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from hstpeft.models.classifiers import HMAClassifier
from hstpeft.official.hma import hma_names
from hstpeft.oracle.case import Case, Run, UnknownArgument
from tools.reference_checks import memory_tokens

_PARTS = {'all': 'all', 'feature': 'feature', 'label_emb': 'label'}
_READ = {
    'model', 'feature size (dim_in = dim_out)', 'classes', 'label_hidden', 'heads',
    'local_mem_size', 'num_global_memory per class', 'gaussain_mem', 'abd_augmentation',
    'logits_resource', 'topk', 'norm_after_topk', 'null_KV', 'softmax_temp', 'encoder_momentum',
    'hidden dropout', 'layer norm eps', 'encoder',
}  # fmt: skip


class Encoder(nn.Module):
    """The cases' encoder: features as they are, or one Linear."""

    def __init__(self, weight: Tensor | None) -> None:
        super().__init__()
        self.proj = None if weight is None else nn.Linear(weight.shape[1], weight.shape[0])

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Turn x (B, inputs) into features (B, D)."""
        return (x if self.proj is None else self.proj(x),)


def build(case: Case) -> nn.Module:
    """Build the classifier that a config would, filled with the case's weights."""
    if 'VisionTransformer' in case.arguments['model']:
        return memory_tokens.build(case)
    arguments = case.arguments
    unknown = arguments.keys() - _READ
    if unknown or arguments.get('logits_resource', 'all') not in _PARTS:
        raise UnknownArgument(f'arguments {sorted(unknown) or "logits_resource"} not understood')
    if case.mode == 'train' and arguments.get('hidden dropout'):
        raise UnknownArgument('arguments with dropout in training are not understood')
    has_copy = 'momen_encoder.proj.weight' in case.weights
    model = HMAClassifier(
        Encoder(case.weights.get('encoder.proj.weight')),
        head=_head_config(arguments),
        # Without parameters an encoder and its copy are the same.
        encoder_momentum=arguments.get('encoder_momentum', 0) if has_copy else 0,
    )
    _allow_large_topk(case, model.head)
    state = model.state_dict()
    for official, own in _names(case).items():
        state[own] = case.weights[official].reshape(state[own].shape)
    model.load_state_dict(state, strict=True)
    return model


def _head_config(arguments: dict[str, Any]) -> dict:
    size, batch_attention = arguments['local_mem_size'], arguments.get('abd_augmentation', True)
    return dict(
        type='hstpeft.HMAClsHead',
        num_classes=arguments['classes'],
        in_channels=arguments['feature size (dim_in = dim_out)'],
        label_dims=arguments['label_hidden'],
        local_memory=dict(size=size, update='divisible') if size else None,
        # The official code makes no global memories that nothing reads.
        global_memory_per_class=arguments['num_global_memory per class'] if batch_attention else 0,
        global_memory_init='normal' if arguments.get('gaussain_mem') else 'zeros',
        batch_attention=batch_attention,
        batch_attention_at_test=True,
        logits_from=_PARTS[arguments.get('logits_resource', 'all')],
        attention=dict(
            num_heads=arguments['heads'],
            norm_after_topk=arguments.get('norm_after_topk', False),
            null_kv=arguments.get('null_KV', False),
            softmax_temp=arguments.get('softmax_temp', 1.0),
            drop_rate=arguments.get('hidden dropout', 0.0),
            eps=arguments.get('layer norm eps', 1e-12),
        ),
    )


def _allow_large_topk(case: Case, head: nn.Module) -> None:
    """Set topk block by block: above the number of keys it has no effect officially."""
    topk, arguments = case.arguments.get('topk'), case.arguments
    if topk is None:
        return
    num_null = bool(arguments.get('null_KV'))
    if head.local_read is not None:
        head.local_read.topk = min(topk, arguments['local_mem_size'] + 1 + num_null)
    if head.batch_read is not None:
        batch = len(next(iter(case.inputs.values())))
        head.batch_read.topk = min(topk, batch + head.num_global_memories + num_null)


def _names(case: Case) -> dict[str, str]:
    """Pair the official names of a case with ours."""
    keys = case.weights.keys() - _unread(case)
    names = hma_names(keys, dropout=bool(case.arguments.get('hidden dropout')))
    for leaf in ('weight', 'bias'):
        for official, own in (('encoder', 'backbone'), ('momen_encoder', 'momentum_backbone')):
            if f'{official}.proj.{leaf}' in keys:
                names[f'{official}.proj.{leaf}'] = f'{own}.proj.{leaf}'
    left = sorted(keys - names.keys())
    if left:
        raise UnknownArgument(f'the official tensors {left[:6]} are not understood')
    return names


def _unread(case: Case) -> set[str]:
    """Name the label embeddings where neither memory nor batch attention reads them."""
    reads = case.arguments['local_mem_size'] or case.arguments.get('abd_augmentation', True)
    return set() if reads else {'label_embeddings.weight'}


def run(case: Case, model: nn.Module) -> Run:
    """Run all steps of a case; gradients are those of the first."""
    if 'VisionTransformer' in case.arguments['model']:
        return memory_tokens.run(case, model)
    outputs: dict[str, Tensor] = {}
    names = _names(case)
    tensors = dict(model.named_parameters())
    official = {key: tensors[own] for key, own in names.items() if own in tensors}
    trained = {key: p for key, p in official.items() if p.requires_grad}
    first: dict[str, nn.Parameter] = {}
    for number, inputs in enumerate(case.inputs.values(), start=1):
        shift, classes = number - 1, case.arguments['classes']
        labels = None if case.labels is None else (case.labels + shift) % classes
        _step(case, model, inputs, labels, number, outputs)
        first = first or _with_official_shapes(case, trained)
        _descend(case, trained.values())
    outputs.update({f'final/{key}': p.detach() for key, p in official.items()})
    unused = _unread(case) | {key for key in official if key.startswith('momen_encoder.')}
    return Run(outputs, first, frozenset(unused))


def _step(
    case: Case,
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor | None,
    number: int,
    outputs: dict[str, Tensor],
) -> None:
    """Run forward and backward once, and write the queue where the official call did."""
    suffix = '' if number == 1 else f'_step{number}'
    feats = model.extract_feat(inputs)
    samples, _ = model.head.read(feats, alone=False)
    outputs[f'feature{suffix}'] = samples[:, : model.head.in_channels].detach()
    outputs[f'logits{suffix}'] = model(inputs).detach()
    if labels is None:
        return
    data_samples = [DataSample().set_gt_label(label) for label in labels]
    losses = model(inputs, data_samples, mode='loss')
    outputs[f'loss{suffix}'] = losses['loss'].detach()
    losses['loss'].backward()
    if model.head.queue is None:
        return
    if 'label=' in case.meta.get('call', '') and not model.training:
        _remember_in_eval(model, inputs, data_samples)
    outputs[f'queue_after_step{number}'] = model.head.queue.rows.clone()
    outputs[f'queue_ptr_after_step{number}'] = model.head.queue.pointer.clone()
    if model.encoder_momentum:
        copied = model.momentum_backbone.proj.weight
        outputs[f'momentum_weight_after_step{number}'] = copied.detach().clone()


def _remember_in_eval(model: nn.Module, inputs: Tensor, data_samples: list[DataSample]) -> None:
    """Do what the official code does in evaluation too, and ours never."""
    encode = model.extract_feat
    if model.encoder_momentum:
        model.follow()
        encode = model.momentum_features
    model.head.remember(encode(inputs), data_samples)


def _with_official_shapes(case: Case, trained: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Copy parameters and gradients, since the later steps change them."""
    copies = {}
    for key, parameter in trained.items():
        shape = case.weights[key].shape
        copies[key] = nn.Parameter(parameter.detach().clone().reshape(shape))
        if parameter.grad is not None:
            copies[key].grad = parameter.grad.clone().reshape(shape)
    return copies


def _descend(case: Case, parameters: Iterable[nn.Parameter]) -> None:
    """Take the plain SGD step that the case describes, if it has more than one."""
    found = re.search(r'\blr (\d+(?:\.\d+)?(?:e-?\d+)?)', case.meta['loss'] or '')
    rate = float(found[1]) if found else 0.0
    with torch.no_grad():
        for parameter in parameters:
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
            parameter.grad = None
