"""The head of SA2VP: one classifier for two branches.

Shapes: B batch, C width, S classes.
"""

from typing import Any

from mmpretrain.models.heads import LinearClsHead
from mmpretrain.structures import DataSample
from torch import Tensor

from hstpeft.errors import UserError
from hstpeft.registry import MODELS


@MODELS.register_module()
class TwoBranchClsHead(LinearClsHead):
    """A linear head that trains on image and prompt branch, and predicts from the image's.

    The last entry of its input is a list [image, prompt] of (B, C), as in mmpretrain's DeiT
    head. The loss is ``(1 - prompt_weight) CE(image) + prompt_weight CE(prompt)``
    (https://arxiv.org/abs/2312.10376).

    Args:
        num_classes: S.
        in_channels: C.
        prompt_weight: Share of the prompt's loss.
        **kwargs: As in mmpretrain's `LinearClsHead`: ``loss``, ``topk``, ``cal_acc``, ...
    """

    def __init__(
        self, num_classes: int, in_channels: int, prompt_weight: float = 0.2, **kwargs: Any
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, **kwargs)
        if not 0 <= prompt_weight <= 1:
            raise UserError(f'head.prompt_weight {prompt_weight} must be from 0 to 1')
        self.prompt_weight = prompt_weight

    def pre_logits(self, feats: tuple[list[Tensor], ...]) -> Tensor:
        """Return the image branch (B, C)."""
        return self._branches(feats)[0]

    def loss(
        self, feats: tuple[list[Tensor], ...], data_samples: list[DataSample], **kwargs: Any
    ) -> dict[str, Tensor]:
        """Return both branches' losses, weighted, and the image branch's accuracy if asked."""
        image, prompt = self._branches(feats)
        rest = super().loss(([image, prompt],), data_samples, **kwargs)
        # No part is called ``loss``: mmengine's log has the sum by that name.
        image_loss = (1 - self.prompt_weight) * rest.pop('loss')
        prompt_loss = super().loss(([prompt, image],), data_samples, **kwargs)['loss']
        return dict(image_loss=image_loss, prompt_loss=self.prompt_weight * prompt_loss, **rest)

    def _branches(self, feats: tuple[list[Tensor], ...]) -> list[Tensor]:
        last = feats[-1]
        if not isinstance(last, (list, tuple)) or len(last) != 2:
            raise UserError(
                'head TwoBranchClsHead needs two branches [image, prompt]: use it with the tuner '
                'hstpeft.SA2VPTuner, or take LinearClsHead'
            )
        return last
