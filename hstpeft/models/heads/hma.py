"""The memory-augmented head.

Shapes: B batch, D feature width, E label embedding width, W = D + E, M rows of the local memory,
G = labels * memories a class, h heads.
"""

from collections.abc import Sequence

import torch
from mmpretrain.models.heads import ClsHead
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.errors import UserError
from hstpeft.models.heads.memory_attention import MemoryAttention
from hstpeft.models.heads.memory_queue import MemoryQueue
from hstpeft.registry import MODELS

LOGITS_FROM = ('all', 'feature', 'label')
GLOBAL_INITS = {'zeros': 0.0, 'normal': 0.02}


@MODELS.register_module()
class HMAClsHead(ClsHead):
    """Classify by the features and by what two memories and the batch say about them.

    A sample is its feature beside a label embedding, for itself the masked one. It reads the
    local memory (a queue of the last training samples with their labels) and then the samples of
    its batch and the global memories (trained, some a class, with the label of the class).
    https://arxiv.org/abs/2310.10909

    What the official pipeline does otherwise can be had: it never passes labels in training, so
    that its queue keeps its random rows (``queue_update='never'``), its queue drops batches that
    do not divide it (``'divisible'``), and its predictions depend on the other images
    (``batch_attention_at_test=True``).

    Args:
        num_classes: Classes; with 1 there is one logit, and two labels, 0 and 1.
        in_channels: Feature width D.
        label_dims: Width E of the label embeddings.
        num_heads: Attention heads; divides D + E.
        local_memory_size: Rows M of the queue; 0: no local memory.
        global_memory_per_class: Trained memories a class; 0: none.
        global_memory_init: ``zeros`` (official default) or ``normal`` (deviation 0.02). From zeros
            the memories of a class get equal gradients and stay equal to each other.
        batch_attention: Whether the samples of a batch and the global memories are read.
        batch_attention_at_test: Whether a prediction depends on the other images of its batch, as
            officially. By default a test image reads itself and the global memories only.
        logits_from: The part that is classified: ``all``, ``feature`` (first D) or ``label``
            (last E).
        attention_topk: Keep only so many of the largest weights of an attention row.
        norm_after_topk: Divide what is kept by its sum.
        null_kv: Give every attention a trainable key with the value 0.
        softmax_temp: Factor on the attention scores.
        drop_rate: Dropout in both attention blocks.
        queue_update: ``always``: the queue wraps around, and keeps the end of a batch that is
            larger; ``divisible``: nothing is written if the batch (of all processes) does not
            divide the queue; ``never``.
        eps: Added to the variance by the norms.
        loss: Config of the loss; default: mmpretrain's cross-entropy.
        topk: For which k the accuracy is computed, as in mmpretrain.
        cal_acc: Whether to compute the accuracy in training.
        init_cfg: As in mmpretrain.

    Raises:
        UserError: An argument is wrong; names it, its value and the remedy.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        label_dims: int = 64,
        num_heads: int = 4,
        local_memory_size: int = 512,
        global_memory_per_class: int = 16,
        global_memory_init: str = 'zeros',
        batch_attention: bool = True,
        batch_attention_at_test: bool = False,
        logits_from: str = 'all',
        attention_topk: int | None = None,
        norm_after_topk: bool = False,
        null_kv: bool = False,
        softmax_temp: float = 1.0,
        drop_rate: float = 0.1,
        queue_update: str = 'always',
        eps: float = 1e-12,
        loss: dict | None = None,
        topk: int | tuple[int, ...] = (1,),
        cal_acc: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        loss = loss or dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0)
        super().__init__(loss, topk, cal_acc, init_cfg)
        _check_sizes(num_classes, label_dims, local_memory_size, global_memory_per_class)
        _check_choices(logits_from, global_memory_init, batch_attention, global_memory_per_class)
        self.num_classes, self.in_channels = num_classes, in_channels
        self.num_labels = max(num_classes, 2)
        self.batch_attention_at_test = batch_attention_at_test
        self.logits_from = logits_from
        dims = in_channels + label_dims

        def block() -> MemoryAttention:
            return MemoryAttention(
                dims, num_heads, attention_topk, norm_after_topk, null_kv, softmax_temp, drop_rate,
                eps,
            )  # fmt: skip

        self.label_embeddings = self.queue = self.local_read = None
        self.batch_read = self.global_memories = None
        if local_memory_size or batch_attention:
            # The masked label is the last row.
            self.label_embeddings = nn.Embedding(self.num_labels + 1, label_dims)
        elif logits_from == 'label':
            raise UserError(
                "head.logits_from 'label' needs a label part: set local_memory_size or "
                'batch_attention'
            )
        if local_memory_size:
            self.queue = MemoryQueue(local_memory_size, dims, queue_update)
            self.local_read = block()
            _check_topk(attention_topk, 1 + local_memory_size + null_kv, 'of the local memory')
        if batch_attention:
            self.batch_read = block()
            memories = GLOBAL_INITS[global_memory_init] * torch.randn(
                self.num_labels * global_memory_per_class, in_channels
            )
            self.global_memories = nn.Parameter(memories) if len(memories) else None
            if not batch_attention_at_test:
                _check_topk(
                    attention_topk, 1 + len(memories) + null_kv,
                    'that a test image has without batch_attention_at_test=True',
                )  # fmt: skip
        self.fc = nn.Linear(self._logit_dims(label_dims), num_classes)

    @property
    def remembers(self) -> bool:
        """Whether training writes to a local memory."""
        return self.queue is not None and self.queue.update != 'never'

    def _logit_dims(self, label_dims: int) -> int:
        if self.label_embeddings is None:
            return self.in_channels
        sizes = {'feature': self.in_channels, 'label': label_dims}
        return sizes.get(self.logits_from, self.in_channels + label_dims)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Turn features, the last being (B, D), into logits (B, classes)."""
        return self.fc(self.pre_logits(feats))

    def pre_logits(self, feats: Sequence[Tensor]) -> Tensor:
        """Return what the last Linear reads: (B, W), (B, D) or (B, E) by ``logits_from``."""
        samples, _ = self.read(feats)
        if self.label_embeddings is None:
            return F.relu(samples)
        parts = {'feature': samples[:, : self.in_channels], 'label': samples[:, self.in_channels :]}
        return parts.get(self.logits_from, samples)

    def read(self, feats: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Let the samples read the memories and each other.

        Args:
            feats: Features, the last being (B, D).

        Returns:
            The samples (B, W) after both blocks ((B, D) without any), and the attention weights:
            ``local`` (h, B, 1 + M): on the sample itself and on the rows of the queue;
            ``batch``: on the samples of the batch (h, B, B + G), or, in evaluation without
            ``batch_attention_at_test``, on itself (h, B, 1 + G), then on the global memories. A
            null key comes last.
        """
        samples, weights = self._features(feats), {}
        if self.label_embeddings is not None:
            masked = self.label_embeddings.weight[-1].expand(len(samples), -1)
            samples = torch.cat([samples, masked], dim=1)
        if self.queue is not None:
            own = samples[:, None]
            samples, weights['local'] = self.local_read(samples, own, self.queue.rows)
        if self.batch_read is not None:
            shared = self._global_rows(samples)
            if self.training or self.batch_attention_at_test:
                own, shared = None, torch.cat([samples, shared])
            else:
                own = samples[:, None]
            samples, weights['batch'] = self.batch_read(samples, own, shared)
        return samples, weights

    def loss(
        self,
        feats: Sequence[Tensor],
        data_samples: Sequence[DataSample],
        remember: bool = True,
        **kwargs,
    ) -> dict[str, Tensor]:
        """Compute the losses; in training, write the batch to the local memory after the read.

        Args:
            feats: Features, the last being (B, D).
            data_samples: The batch's labels.
            remember: Whether to write these features; `HMAClassifier` writes others.
            kwargs: For the loss module.

        Raises:
            UserError: The labels cannot be remembered.
        """
        remember = remember and self.training and self.remembers
        labels = self._labels(data_samples) if remember else None
        losses = super().loss(feats, data_samples, **kwargs)
        if remember:
            self._write(feats, labels)
        return losses

    def remember(self, feats: Sequence[Tensor], data_samples: Sequence[DataSample]) -> None:
        """Write features, the last being (B, D), and the labels of a batch to the local memory.

        Raises:
            UserError: The labels cannot be remembered.
        """
        self._write(feats, self._labels(data_samples))

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
        """Put the class's label embedding beside every global memory: (G, W)."""
        if self.global_memories is None:
            return samples[:0]
        labels = self.label_embeddings.weight[: self.num_labels]
        per_class = len(self.global_memories) // self.num_labels
        return torch.cat([self.global_memories, labels.repeat_interleave(per_class, 0)], dim=1)

    def _labels(self, data_samples: Sequence[DataSample]) -> Tensor:
        """Collect the labels (B,) of a batch for the local memory."""
        if any('gt_score' in sample for sample in data_samples):
            raise UserError(
                'head.local_memory_size: the local memory keeps one label a sample, but the '
                'labels are soft: train without mixup and CutMix, or set local_memory_size=0'
            )
        labels = torch.cat([sample.gt_label for sample in data_samples])
        if len(labels) != len(data_samples):
            raise UserError(
                f'head.local_memory_size: the local memory keeps one label a sample, but there are '
                f'{len(labels)} labels of {len(data_samples)} samples: set it to 0'
            )
        wrong = labels[(labels < 0) | (labels >= self.num_labels)]
        if len(wrong):
            raise UserError(
                f'head.num_classes {self.num_classes}: the training label {int(wrong[0])} is not '
                f'between 0 and {self.num_labels - 1}: set num_classes to that of the data'
            )
        return labels

    @torch.no_grad()
    def _write(self, feats: Sequence[Tensor], labels: Tensor) -> None:
        labels = labels.to(self.label_embeddings.weight.device)
        rows = torch.cat([self._features(feats), self.label_embeddings(labels)], dim=1)
        self.queue.write(rows, labels)


def _check_sizes(num_classes: int, label_dims: int, local_size: int, per_class: int) -> None:
    for name, value, least in (
        ('num_classes', num_classes, 1),
        ('label_dims', label_dims, 1),
        ('local_memory_size', local_size, 0),
        ('global_memory_per_class', per_class, 0),
    ):
        if value < least:
            raise UserError(f'head.{name} {value} must be at least {least}')


def _check_choices(logits_from: str, init: str, batch_attention: bool, per_class: int) -> None:
    if logits_from not in LOGITS_FROM:
        raise UserError(f'head.logits_from {logits_from!r} is unknown: use one of {LOGITS_FROM}')
    if init not in GLOBAL_INITS:
        raise UserError(
            f'head.global_memory_init {init!r} is unknown: use one of {tuple(GLOBAL_INITS)}'
        )
    if per_class and not batch_attention:
        raise UserError(
            f'head.global_memory_per_class {per_class} is not read with batch_attention=False: '
            'set it to 0'
        )


def _check_topk(topk: int | None, num_keys: int, which: str) -> None:
    if topk is not None and not 1 <= topk <= num_keys:
        raise UserError(
            f'head.attention_topk {topk} is not between 1 and the {num_keys} keys {which}: '
            'choose another or None'
        )
