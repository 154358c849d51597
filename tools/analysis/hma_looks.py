"""What a test image looked at in HMA's head, as numbers.

Shapes: B batch, D feature width, M rows of the local memory, G global memories.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hstpeft.models.heads import HMAClsHead

# The class of a row of the local memory that was not written, or came from an official checkpoint.
UNKNOWN = -1


@dataclass
class Looks:
    """What one image of a batch looked at; weights are means over the heads.

    Attributes:
        predicted: The class that the head predicts from this.
        itself_local: Weight on itself when it read the local memory.
        local: Weights (M,) on the rows of the local memory, and their classes, -1 = unknown.
        neighbours: Weights (B,) on the images of the batch, itself included.
        memories: Weights (G,) on the global memories, and their classes.
        nothing: Weight on the null keys, local and batch (0 without).
    """

    predicted: int
    itself_local: float
    local: Tensor
    local_classes: Tensor
    neighbours: Tensor
    memories: Tensor
    memory_classes: Tensor
    nothing: tuple[float, float]


@torch.no_grad()
def look(head: HMAClsHead, feats: Sequence[Tensor], show: int, alone: bool = False) -> Looks:
    """Read the attention of one image.

    Args:
        head: In evaluation mode.
        feats: Features of the batch, the last being (B, D).
        show: Number of the image in the batch.
        alone: Read without the other images.
    """
    samples, weights = head.read(feats, alone)
    none = feats[-1].new_zeros(0)
    local, batch = (
        weights[part].mean(0)[show] if part in weights else none for part in ('local', 'batch')
    )
    neighbours = feats[-1].new_zeros(len(feats[-1]))
    if len(batch):
        seen = [show] if alone else list(range(len(neighbours)))
        neighbours[seen], batch = batch[: len(seen)], batch[len(seen) :]
    num_rows = 0 if head.queue is None else len(head.queue.rows)
    num_memories = head.num_global_memories
    classes = torch.arange(head.num_labels).repeat_interleave(num_memories // head.num_labels)
    return Looks(
        predicted=int(head.fc(head.classified(samples))[show].argmax()),
        itself_local=float(local[:1].sum()),
        local=local[1 : 1 + num_rows],
        local_classes=head.queue.labels.clone() if num_rows else classes[:0],
        neighbours=neighbours,
        memories=batch[:num_memories],
        memory_classes=classes,
        nothing=(float(local[1 + num_rows :].sum()), float(batch[num_memories:].sum())),
    )


def sum_by_class(weights: Tensor, owners: Tensor, num_classes: int) -> Tensor:
    """Add up weights (N,) by the class of their rows (N,), unknown ones left out."""
    known = owners != UNKNOWN
    return weights.new_zeros(num_classes).index_add(0, owners[known], weights[known])
