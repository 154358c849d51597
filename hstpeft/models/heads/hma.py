"""The memory-augmented head.

Shapes: B batch, D feature width, E label embedding width, W = D + E.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.errors import UserError
from hstpeft.models.heads.memory_head import MemoryHead
from hstpeft.registry import MODELS

# What this head took itself, and the option of its parts that it is now.
_MOVED = {
    'local_memory_size': 'local_memory.size',
    'queue_update': 'local_memory.update',
    'num_heads': 'attention.num_heads',
    'attention_topk': 'attention.topk',
    'norm_after_topk': 'attention.norm_after_topk',
    'null_kv': 'attention.null_kv',
    'softmax_temp': 'attention.softmax_temp',
    'drop_rate': 'attention.drop_rate',
    'eps': 'attention.eps',
}


@MODELS.register_module()
class HMAClsHead(MemoryHead):
    """Classify by the features and by what two memories and the batch say about them.

    `MemoryHead` owns the memories and reads them; this class makes logits of what was read, and
    remembers the training samples. https://arxiv.org/abs/2310.10909

    What the official pipeline does otherwise can be had: it never passes labels in training, so
    that its queue keeps its random rows (``local_memory=dict(update='never')``), its queue drops
    batches that do not divide it (``'divisible'``), and its predictions depend on the other images
    (``batch_attention_at_test=True``).

    Args:
        num_classes: Number of classes; with 1 there is one logit, and two labels, 0 and 1.
        in_channels: Feature width D.
        logits_from: The part that is classified: ``all``, ``feature`` (first D) or ``label``
            (last E).
        batch_attention_at_test: Whether a prediction depends on the other images of its batch, as
            officially. By default a test image reads itself and the memories only.
        **kwargs: As in `MemoryHead`: ``label_dims``, ``local_memory``, ``global_memory_per_class``,
            ``global_memory_init``, ``batch_attention``, ``attention``; and as in mmpretrain's
            `ClsHead`: ``loss``, ``topk``, ``cal_acc``, ``init_cfg``.

    Raises:
        UserError: An argument is wrong; names it, its value and the remedy.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        logits_from: str = 'all',
        batch_attention_at_test: bool = False,
        **kwargs: Any,
    ) -> None:
        _refuse_moved(kwargs)
        super().__init__(num_classes, in_channels, **kwargs)
        self.batch_attention_at_test = batch_attention_at_test
        if self.batch_read is not None and not batch_attention_at_test:
            self.batch_read.check_topk(
                1 + self.num_global_memories,
                'that a test image has without batch_attention_at_test=True',
            )
        self.columns = self._columns(logits_from)
        self.fc = nn.Linear(len(range(self.sample_dims)[self.columns]), num_classes)

    def _columns(self, logits_from: str) -> slice:
        """Return the columns of a sample that are classified."""
        end = self.in_channels
        parts = {'all': slice(None), 'feature': slice(end), 'label': slice(end, None)}
        if logits_from not in parts:
            raise UserError(
                f'head.logits_from {logits_from!r} is unknown: use one of {tuple(parts)}'
            )
        if logits_from == 'label' and self.label_embeddings is None:
            raise UserError(
                "head.logits_from 'label' needs a label part: set local_memory or batch_attention"
            )
        return parts[logits_from]

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Turn features, the last being (B, D), into logits (B, classes)."""
        return self.fc(self.pre_logits(feats))

    def pre_logits(self, feats: Sequence[Tensor]) -> Tensor:
        """Return what the last Linear reads: (B, W), (B, D) or (B, E) by ``logits_from``."""
        samples, _ = self.read(feats, alone=not (self.training or self.batch_attention_at_test))
        return self.classified(samples)

    def classified(self, samples: Tensor) -> Tensor:
        """Return the part of samples (B, W), as `read` gives them, that the last Linear reads."""
        if self.label_embeddings is None:
            # Officially, in place of the blocks.
            return F.relu(samples)
        return samples[:, self.columns]

    def loss(
        self,
        feats: Sequence[Tensor],
        data_samples: Sequence[DataSample],
        remember: bool = True,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Compute the losses; in training, write the batch to the local memory after the read.

        Args:
            feats: Features, the last being (B, D).
            data_samples: The batch's labels.
            remember: Whether to write these features; `HMAClassifier` writes others.
            **kwargs: For the loss module.

        Raises:
            UserError: The labels cannot be remembered.
        """
        remember = remember and self.training and self.remembers
        # Refused before anything is computed or written.
        labels = self._hard_labels(data_samples) if remember else None
        losses = super().loss(feats, data_samples, **kwargs)
        if remember:
            self.write(feats, labels)
        return losses

    def remember(self, feats: Sequence[Tensor], data_samples: Sequence[DataSample]) -> None:
        """Write features, the last being (B, D), and the labels of a batch to the local memory.

        Raises:
            UserError: The labels cannot be remembered.
        """
        self.write(feats, self._hard_labels(data_samples))

    def _hard_labels(self, data_samples: Sequence[DataSample]) -> Tensor:
        """Collect the labels (B,) of a batch for the local memory, which keeps one per sample."""
        if any('gt_score' in sample for sample in data_samples):
            raise UserError(
                'head.local_memory: the local memory keeps one label per sample, but the labels are '
                'soft: train without mixup and CutMix, or set local_memory=None'
            )
        labels = torch.cat([sample.gt_label for sample in data_samples])
        if len(labels) != len(data_samples):
            raise UserError(
                f'head.local_memory: the local memory keeps one label per sample, but there are '
                f'{len(labels)} labels of {len(data_samples)} samples: set it to None'
            )
        wrong = labels[(labels < 0) | (labels >= self.num_labels)]
        if len(wrong):
            raise UserError(
                f'head.num_classes {self.num_classes}: the training label {int(wrong[0])} is not '
                f'between 0 and {self.num_labels - 1}: set num_classes to that of the data'
            )
        return labels


def _refuse_moved(names: Iterable[str]) -> None:
    for name in names:
        if name in _MOVED:
            part, option = _MOVED[name].split('.')
            none = f' (none: {part}=None)' if name == 'local_memory_size' else ''
            raise UserError(
                f'head.{name} is now head.{part}.{option}: write {part}=dict({option}=...){none}'
            )
