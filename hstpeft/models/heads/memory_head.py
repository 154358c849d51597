"""What a head with memories reads, apart from what it makes of it.

Shapes: B batch, D feature width, E label embedding width, W = D + E, M rows of the local memory,
G = labels * global memories per class, h heads.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.models.heads import ClsHead
from torch import Tensor, nn

from hstpeft.errors import UserError, nearest
from hstpeft.registry import MODELS

LOCAL_MEMORY = dict(type='hstpeft.MemoryQueue')
ATTENTION = dict(type='hstpeft.MemoryAttention')
LOSS = dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0)
# Standard deviations of the initial values.
GLOBAL_INITS = {'zeros': 0.0, 'normal': 0.02}


class MemoryHead(ClsHead):
    """Base of the heads whose samples read memories: owns the memories, reads and writes them.

    A sample is its feature beside a label embedding; its own label is masked. It reads the local
    memory (a queue of the last training samples with their labels) and then the samples of its
    batch and the global memories (trained, each with the label embedding of its class).
    https://arxiv.org/abs/2310.10909

    Args:
        num_classes: Number of classes; a single class has two labels, 0 and 1.
        in_channels: Feature width D.
        label_dims: Width E of the label embeddings.
        local_memory: Config of the `MemoryQueue`; None: no local memory.
        global_memory_per_class: Number of trained memories per class; 0: none.
        global_memory_init: ``zeros`` (official default) or ``normal`` (deviation 0.02). From zeros
            the memories of a class get equal gradients and stay equal to each other.
        batch_attention: Whether the samples of a batch and the global memories are read.
        attention: Config of the `MemoryAttention`, one block for each of the two reads.
        **kwargs: As in mmpretrain's `ClsHead`: ``loss``, ``topk``, ``cal_acc``, ``init_cfg``.

    Raises:
        UserError: An argument is wrong; names it, its value and the remedy.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        label_dims: int = 64,
        local_memory: dict | None = LOCAL_MEMORY,
        global_memory_per_class: int = 16,
        global_memory_init: str = 'zeros',
        batch_attention: bool = True,
        attention: dict = ATTENTION,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{'loss': LOSS, **kwargs})
        _check_sizes(num_classes, label_dims, global_memory_per_class)
        _check_global(global_memory_per_class, global_memory_init, batch_attention)
        self.num_classes, self.in_channels = num_classes, in_channels
        self.num_labels = max(num_classes, 2)
        reads = local_memory is not None or batch_attention
        self.label_embeddings = self.queue = self.local_read = None
        self.batch_read = self.global_memories = None
        dims = self.sample_dims = in_channels + label_dims * reads
        if reads:
            # The masked label is the last row.
            self.label_embeddings = nn.Embedding(self.num_labels + 1, label_dims)
        if local_memory is not None:
            self.queue = _build('local_memory', {**LOCAL_MEMORY, **local_memory}, dims)
            self.local_read = _build('attention', {**ATTENTION, **attention}, dims)
            self.local_read.check_topk(1 + len(self.queue.rows), 'of the local memory')
        if batch_attention:
            self.batch_read = _build('attention', {**ATTENTION, **attention}, dims)
            # Drawn for zeros too: what is drawn next does not depend on the choice.
            memories = GLOBAL_INITS[global_memory_init] * torch.randn(
                self.num_labels * global_memory_per_class, in_channels
            )
            self.global_memories = nn.Parameter(memories) if len(memories) else None

    @property
    def remembers(self) -> bool:
        """Whether training writes to a local memory."""
        return self.queue is not None and self.queue.update != 'never'

    @property
    def num_global_memories(self) -> int:
        """Number of global memories G."""
        return 0 if self.global_memories is None else len(self.global_memories)

    def read(self, feats: Sequence[Tensor], alone: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Let the samples read the memories and each other.

        Args:
            feats: Features, the last being (B, D).
            alone: Whether a sample reads itself instead of all samples of the batch.

        Returns:
            The samples (B, W) after both blocks ((B, D) without any), and the attention weights:
            ``local`` (h, B, 1 + M): on the sample itself and on the rows of the queue;
            ``batch``: on the samples of the batch (h, B, B + G), or, if ``alone``, on the sample
            itself (h, B, 1 + G), then on the global memories. A null key comes last.
        """
        samples, weights = self._features(feats), {}
        if self.label_embeddings is not None:
            masked = self.label_embeddings.weight[-1].expand(len(samples), -1)
            samples = torch.cat([samples, masked], dim=1)
        if self.queue is not None:
            own = samples[:, None]
            samples, weights['local'] = self.local_read(samples, own, self.queue.rows)
        if self.batch_read is not None:
            own, shared = samples[:, None], self._global_rows(samples)
            if not alone:
                own, shared = None, torch.cat([samples, shared])
            samples, weights['batch'] = self.batch_read(samples, own, shared)
        return samples, weights

    @torch.no_grad()
    def write(self, feats: Sequence[Tensor], labels: Tensor) -> None:
        """Write features, the last being (B, D), with their labels (B,) to the local memory."""
        labels = labels.to(self.label_embeddings.weight.device)
        rows = torch.cat([self._features(feats), self.label_embeddings(labels)], dim=1)
        self.queue.write(rows, labels)

    def _features(self, feats: Sequence[Tensor]) -> Tensor:
        features = feats[-1]
        if features.dim() != 2 or features.shape[1] != self.in_channels:
            raise UserError(
                f'head.in_channels {self.in_channels} does not fit the features of shape '
                f"{tuple(features.shape)}: give the backbone's width, and vectors (out_type "
                "'cls_token' or a pooling neck)"
            )
        return features

    def _global_rows(self, samples: Tensor) -> Tensor:
        """Put the label embedding of its class beside every global memory: (G, W)."""
        if self.global_memories is None:
            return samples[:0]
        labels = self.label_embeddings.weight[: self.num_labels]
        per_class = self.num_global_memories // self.num_labels
        return torch.cat([self.global_memories, labels.repeat_interleave(per_class, 0)], dim=1)


def _build(part: str, cfg: dict, dims: int) -> nn.Module:
    """Build a part of the head for samples of width ``dims``; a misspelt option is named."""
    kind = MODELS.get(cfg['type'])
    if kind is None:
        raise UserError(f'head.{part}.type {cfg["type"]!r} is unknown')
    options = {name: value for name, value in cfg.items() if name not in ('type', '_scope_')}
    known = inspect.signature(kind).parameters.keys() - {'dims'}
    for name in options:
        if name not in known:
            raise UserError(f'head.{part} has no option {name!r}: {nearest(name, known)}')
    return kind(dims=dims, **options)


def _check_sizes(num_classes: int, label_dims: int, per_class: int) -> None:
    for name, value, least in (
        ('num_classes', num_classes, 1),
        ('label_dims', label_dims, 1),
        ('global_memory_per_class', per_class, 0),
    ):
        if value < least:
            raise UserError(f'head.{name} {value} must be at least {least}')


def _check_global(per_class: int, init: str, batch_attention: bool) -> None:
    if init not in GLOBAL_INITS:
        raise UserError(
            f'head.global_memory_init {init!r} is unknown: use one of {tuple(GLOBAL_INITS)}'
        )
    if per_class and not batch_attention:
        raise UserError(
            f'head.global_memory_per_class {per_class} is not read with batch_attention=False: '
            'set it to 0'
        )
