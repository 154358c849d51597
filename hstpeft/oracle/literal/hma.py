"""HMA's head as its equations say it, by the official names of the weights.

Every sample has its own copy of the local memory, which is projected once for every sample.

Shapes: B batch, D feature width, E label width, W = D + E, M rows of the queue, G global memories,
S sequences of Q queries and L keys, h heads.
"""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hstpeft.oracle.literal.module import OfficialModule


@dataclass(frozen=True)
class HMAOptions:
    """What the weights do not tell."""

    num_heads: int = 4
    batch_attention: bool = True
    logits_from: str = 'all'
    topk: int | None = None
    norm_after_topk: bool = False
    softmax_temp: float = 1.0
    drop_rate: float = 0.0
    eps: float = 1e-12


def literal_hma(
    weights: Mapping[str, Tensor], features: Tensor, options: HMAOptions, training: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the samples (B, W) after both blocks and the logits of features (B, D)."""
    if 'queue' not in weights and not options.batch_attention:
        return features, linear(weights, 'fc', F.relu(features))
    masked = weights['label_embeddings.weight'][-1].expand(len(features), -1)
    c = torch.cat([features, masked], dim=1)
    if 'queue' in weights:
        queue = weights['queue'].expand(len(c), -1, -1)
        own_sequences = torch.cat([c[:, None], queue], dim=1)  # B sequences of 1 + M keys
        block = 'local_read_block.mab'
        c = mab(weights, block, c[:, None], own_sequences, options, training)[:, 0]
    if options.batch_attention:
        keys = torch.cat([c, global_rows(weights)])
        c = mab(weights, 'ABD_block.mab', c[None], keys[None], options, training)[0]
    width = features.shape[1]
    part = {'all': c, 'feature': c[:, :width], 'label': c[:, width:]}[options.logits_from]
    return c, linear(weights, 'fc', part)


def global_rows(w):
    """Memory m with the embedding of label m // n beside it."""
    if 'global_memories' not in w:
        return w['label_embeddings.weight'].new_zeros(0, w['ABD_block.mab.ln0.weight'].shape[0])
    n = len(w['global_memories']) // (len(w['label_embeddings.weight']) - 1)
    classes = torch.tensor([m // n for m in range(len(w['global_memories']))], dtype=torch.long)
    return torch.cat([w['global_memories'], w['label_embeddings.weight'][classes]], dim=1)


def mab(w, name, x, y, options, training):
    """Attend from x (S, Q, W) to y (S, L, W), each sequence for itself."""

    def drop(t):
        return F.dropout(t, options.drop_rate, training)

    normed = layer_norm(w, f'{name}.ln0KV', y, options.eps)
    q = linear(w, f'{name}.fc_q', layer_norm(w, f'{name}.ln0', x, options.eps))
    k, v = linear(w, f'{name}.fc_k', normed), linear(w, f'{name}.fc_v', normed)
    if f'{name}.null_k' in w:
        null = w[f'{name}.null_k'].reshape(1, 1, -1).expand(len(y), -1, -1)
        k, v = torch.cat([k, null], dim=1), torch.cat([v, torch.zeros_like(null)], dim=1)
    q, k, v = (t.unflatten(-1, (options.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    a = (options.softmax_temp * (q @ k.transpose(-2, -1)) / y.shape[-1] ** 0.5).softmax(dim=-1)
    if options.topk is not None and options.topk < a.shape[-1]:
        values, places = a.topk(options.topk, dim=-1)
        a = torch.zeros_like(a).scatter(-1, places, values)
        if options.norm_after_topk:
            a = a / a.sum(dim=-1, keepdim=True)
    h = drop((a @ v).transpose(1, 2).flatten(2)) + x
    second = 3 if f'{name}.rff.3.weight' in w else 2
    hidden = drop(F.gelu(linear(w, f'{name}.rff.0', layer_norm(w, f'{name}.ln1', h, options.eps))))
    return h + drop(linear(w, f'{name}.rff.{second}', hidden))


@torch.no_grad()
def literal_enqueue(weights: MutableMapping[str, Tensor], features: Tensor, labels: Tensor) -> None:
    """Write a batch's rows to the queue as officially: nothing unless B divides M; in place."""
    queue, pointer = weights['queue'], weights['queue_ptr']
    if len(queue) % len(features):
        return
    rows = torch.cat([features, weights['label_embeddings.weight'][labels]], dim=1)
    start = int(pointer)
    queue[start : start + len(rows)] = rows
    pointer.fill_((start + len(rows)) % len(queue))


def linear(w, name, x):
    return F.linear(x, w[f'{name}.weight'], w[f'{name}.bias'])


def layer_norm(w, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], w[f'{name}.weight'], w[f'{name}.bias'], eps)


def hma_shapes(
    dims: int,
    label_dims: int,
    num_classes: int,
    local_memory_size: int = 0,
    global_memory_per_class: int = 0,
    batch_attention: bool = True,
    logits_from: str = 'all',
    null_kv: bool = False,
    dropout_names: bool = False,
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of an official HMA checkpoint's parameters and buffers, encoder left out."""
    width, shapes = dims + label_dims, {}

    def leaves(name: str, *shape: int) -> None:
        shapes.update({f'{name}.weight': shape, f'{name}.bias': shape[:1]})

    def block(name: str) -> None:
        for part in ('fc_q', 'fc_k', 'fc_v'):
            leaves(f'{name}.{part}', width, width)
        for part in ('ln0', 'ln0KV', 'ln1'):
            leaves(f'{name}.{part}', width)
        leaves(f'{name}.rff.0', 4 * width, width)
        leaves(f'{name}.rff.{3 if dropout_names else 2}', width, 4 * width)
        if null_kv:
            shapes[f'{name}.null_k'] = (1, 1, width)

    labels, reads = max(num_classes, 2), local_memory_size or batch_attention
    if batch_attention and global_memory_per_class:
        shapes['global_memories'] = (labels * global_memory_per_class, dims)
    shapes['label_embeddings.weight'] = (labels + 1, label_dims)
    if local_memory_size:
        block('local_read_block.mab')
    if batch_attention:
        block('ABD_block.mab')
    sizes = {'all': width, 'feature': dims, 'label': label_dims}
    leaves('fc', num_classes, sizes[logits_from] if reads else dims)
    if local_memory_size:
        shapes.update({'queue': (local_memory_size, width), 'queue_ptr': (1,)})
    return shapes


class LiteralHMA(OfficialModule):
    """`literal_hma` as a module that holds (copies of) an official state dict."""

    def __init__(self, official: Mapping[str, Tensor], options: HMAOptions) -> None:
        super().__init__(official, is_buffer=lambda name: name in ('queue', 'queue_ptr'))
        self.options = options

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return literal_hma(self.weights(), features, self.options, self.training)
