"""Tiny HMA heads, encoders and labelled batches that the HMA tests share."""

from collections.abc import Sequence

import torch
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from hstpeft.models.classifiers import HMAClassifier
from hstpeft.models.heads import HMAClsHead
from tests.support.models import backbone_config, trunk_config

CLASSES, DIMS, LABEL_DIMS = 5, 24, 8
SMALL = dict(
    label_dims=LABEL_DIMS, local_memory=dict(size=12), global_memory_per_class=2,
    global_memory_init='normal', attention=dict(drop_rate=0.0),
)  # fmt: skip


def make_head(**options) -> HMAClsHead:
    """Build a small head, reproducibly; options of its parts go on top of those of `SMALL`."""
    torch.manual_seed(3)
    for part in ('local_memory', 'attention'):
        if options.get(part) is not None:
            options[part] = {**SMALL[part], **options[part]}
    return HMAClsHead(CLASSES, DIMS, **{**SMALL, **options})


def batch(size: int, seed: int = 0, dims: int = DIMS) -> tuple[Tensor, list[DataSample]]:
    """Draw features (or any inputs) and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, dims, generator=generator)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    return x, samples_of(labels.tolist())


def samples_of(labels: Sequence[int]) -> list[DataSample]:
    """Wrap labels as mmpretrain's loaders do."""
    return [DataSample().set_gt_label(label) for label in labels]


def labels_of(samples: Sequence[DataSample]) -> Tensor:
    """Unwrap labels."""
    return torch.cat([sample.gt_label for sample in samples])


class Encoder(nn.Module):
    """A trainable Linear, a frozen one, and a running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(10, 10).requires_grad_(False)
        self.trained = nn.Linear(10, DIMS)
        self.norm = nn.BatchNorm1d(DIMS, affine=False)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Turn x (B, 10) into features (B, DIMS)."""
        return (self.norm(self.trained(self.frozen(x))),)


def make_classifier(
    momentum: float, backbone: nn.Module | dict | None = None, seed: int = 4, **options
) -> HMAClassifier:
    """Build a classifier on a plain encoder, or on a given backbone."""
    torch.manual_seed(seed)
    head = dict(type='hstpeft.HMAClsHead', num_classes=CLASSES, in_channels=DIMS)
    options = {'head': {**head, **SMALL}, **options}
    return HMAClassifier(backbone or Encoder(), encoder_momentum=momentum, **options)


def make_vit_classifier(
    momentum: float, seed: int = 4, weights: str | None = 'drawn'
) -> HMAClassifier:
    """Build a classifier on a tiny tuned ViT, of drawn weights or, without any, a random one."""
    torch.manual_seed(seed)
    tuner = dict(type='hstpeft.MemoryTokensTuner', num_memory_tokens=2)
    trunk = trunk_config(weights, embed_dim=DIMS, num_heads=2, depth=2)
    return make_classifier(momentum, backbone_config(trunk, tuner, out_type='cls_token'), seed)
