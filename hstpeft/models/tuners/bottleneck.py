"""The bottleneck that adapters share: AdaptFormer, Adapter+ and those that came before.

Shapes: C width of a block, R inner width.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Bottleneck(nn.Module):
    """``norm_out(scale * up(dropout(act(down(norm_in(x))))))``; the residual is its user's.

    It computes in the dtype of its own parameters. Both norms are the identity and both Linears
    start as torch's do, until a subclass says otherwise.

    Args:
        dims: C.
        inner: R.
        act: Activation.
        scale: Factor of the output; ``'learned'``, one number, or ``'channel'``, C numbers, both 1
            at first.
        drop_rate: Dropout behind the activation.
        bias: Whether the Linears have one.
    """

    def __init__(
        self,
        dims: int,
        inner: int,
        act: Callable[[Tensor], Tensor],
        scale: float | str,
        drop_rate: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(dims, inner, bias), nn.Linear(inner, dims, bias)
        self.norm_in, self.norm_out = nn.Identity(), nn.Identity()
        learned = {'learned': 1, 'channel': dims}
        self.scale = nn.Parameter(torch.ones(learned[scale])) if scale in learned else scale
        self.act, self.drop_rate = act, drop_rate

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., C) to the same shape and dtype."""
        hidden = self.act(self.down(self.norm_in(tokens.to(self.down.weight.dtype))))
        hidden = F.dropout(hidden, self.drop_rate, self.training)
        return self.norm_out(self.up(hidden) * self.scale).to(tokens.dtype)
