"""From a map or a vector to a normalised vector, for classification.

Shapes: B batch, D channels, H W cells.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from hstpeft.errors import UserError
from hstpeft.registry import MODELS


@MODELS.register_module()
class PooledNorm(nn.Module):
    """Mean over the last map, then BatchNorm without affine parameters (HST, AdaptFormer).

    Args:
        in_channels: D of the last map or vector.
        eps: Added to the variance.
    """

    def __init__(self, in_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(in_channels, eps=eps, affine=False)

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor]:
        """Turn maps, the last being (B, D, H, W) or a vector (B, D), into a vector (B, D).

        Raises:
            UserError: A training batch of one image, for which batch statistics do not exist.
        """
        last = feats[-1]
        pooled = last.mean(dim=(2, 3)) if last.dim() == 4 else last
        if self.training and len(pooled) == 1:
            raise UserError(
                "neck: a training batch of 1 image has no batch statistics: set the loader's "
                'drop_last=True or another batch_size'
            )
        return (self.norm(pooled),)
