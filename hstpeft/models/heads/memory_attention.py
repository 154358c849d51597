"""Attention from samples to memories that all samples share.

Shapes: B samples, N shared rows, W width, h heads, d = W / h, L keys = own row (0 or 1) + N +
null key (0 or 1).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.errors import UserError
from hstpeft.registry import MODELS


@MODELS.register_module()
class MemoryAttention(nn.Module):
    """A pre-norm block of HMA: every sample reads itself and rows that are the same for all.

    ``H = x + heads(x)``, then ``H + MLP(LN(H))``. Scores are divided by the root of the whole width
    W, not of a head's, and the heads have no output projection. The shared rows are projected once
    per batch, not once per sample. While the samples are few (h B < W + B) even that is saved: the
    query is folded with the key weights and the value weights come after the weighted sum, so that
    the rows themselves are attended to. Both are exact.

    Args:
        dims: Width W of samples and rows; the head gives it.
        num_heads: Number of heads h; divides W.
        topk: Keep only so many of the largest weights of each sample; None keeps all.
        norm_after_topk: Divide the weights that are kept by their sum.
        null_kv: Add a trainable key with the value 0, so that a sample may read nothing.
        softmax_temp: Factor on the scores; above 1 it sharpens.
        drop_rate: Dropout on the heads, inside the MLP and after it.
        eps: Added to the variance by the norms.

    Raises:
        UserError: The heads do not divide the width.
    """

    def __init__(
        self,
        dims: int,
        num_heads: int = 4,
        topk: int | None = None,
        norm_after_topk: bool = False,
        null_kv: bool = False,
        softmax_temp: float = 1.0,
        drop_rate: float = 0.1,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dims % num_heads:
            raise UserError(
                f'head.attention.num_heads {num_heads} does not divide the width {dims} '
                '(in_channels + label_dims): choose another number of heads or other label_dims'
            )
        self.num_heads, self.topk, self.norm_after_topk = num_heads, topk, norm_after_topk
        self.scale = softmax_temp * dims**-0.5
        self.query_norm = nn.LayerNorm(dims, eps)
        self.key_norm = nn.LayerNorm(dims, eps)
        self.query = nn.Linear(dims, dims)
        self.key = nn.Linear(dims, dims)
        self.value = nn.Linear(dims, dims)
        self.null_key = nn.Parameter(torch.zeros(dims)) if null_kv else None
        self.mlp_norm = nn.LayerNorm(dims, eps)
        self.mlp = nn.Sequential(
            nn.Linear(dims, 4 * dims),
            nn.GELU(),
            nn.Dropout(drop_rate),
            nn.Linear(4 * dims, dims),
            nn.Dropout(drop_rate),
        )
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor, own: Tensor | None, shared: Tensor) -> tuple[Tensor, Tensor]:
        """Read.

        Args:
            x: Samples (B, W).
            own: What only the sample itself reads, (B, 1, W); None for nothing.
            shared: Rows that every sample reads, (N, W); N may be 0 if there is something else.

        Returns:
            The samples (B, W) after the block, and the attention weights (h, B, L): on the
            sample's own row, the shared rows, the null key.

        Raises:
            UserError: ``topk`` is above the number of keys.
        """
        if own is None:
            own = x.new_zeros(len(x), 0, x.shape[1])
        self.check_topk(own.shape[1] + len(shared), 'of this batch')
        query = self._by_head(self.query(self.query_norm(x)))
        folded = self.num_heads * len(x) < x.shape[1] + len(x)
        attend = self._folded if folded else self._projected
        heads, weights = attend(query, self._standardise(own), self._standardise(shared))
        hidden = x + self.drop(heads.transpose(0, 1).flatten(1))
        return hidden + self.mlp(self.mlp_norm(hidden)), weights

    def check_topk(self, num_rows: int, where: str) -> None:
        """Refuse a topk above the number of keys.

        Args:
            num_rows: How many rows a sample reads, itself included and the null key not.
            where: Words for the message: which keys are meant.

        Raises:
            UserError: ``topk`` is not between 1 and the number of keys.
        """
        num_keys = num_rows + (self.null_key is not None)
        if self.topk is not None and not 1 <= self.topk <= num_keys:
            raise UserError(
                f'head.attention.topk {self.topk} is not between 1 and the {num_keys} keys '
                f'{where}: choose another or None'
            )

    def _standardise(self, rows: Tensor) -> Tensor:
        """Apply the norm of the keys but for its scale and shift, which go with the weights.

        Without them autograd keeps nothing of rows that have no gradient: the local memory may be
        written before the backward pass.
        """
        return F.layer_norm(rows, rows.shape[-1:], eps=self.key_norm.eps)

    def _by_head(self, x: Tensor) -> Tensor:
        """Split the last axis: (..., W) to (h, ..., d)."""
        return x.unflatten(-1, (self.num_heads, -1)).movedim(-2, 0)

    def _folded(self, query: Tensor, own: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Attend from query (h, B, d) to own (B, 0 or 1, W) and rows (N, W) themselves.

        With scale s and shift t of the norm, a head's key of row y is ``K (s y + t) + k`` and its
        value ``V (s y + t) + v``. So ``q . key = (K^T q * s) . y`` but for what all rows share, and
        ``sum_y a_y value_y = V (s * sum_y a_y y + m t) + m v`` with the mass ``m = sum_y a_y``.
        """
        heads = (self.num_heads, -1)
        reader = (query @ self.key.weight.unflatten(0, heads)) * self.key_norm.weight
        own_scores = torch.einsum('hbw,bow->hbo', reader, own)
        weights = self._weights(query, own_scores, reader @ rows.t())
        for_own, for_rows = _split(weights, own, rows)
        mean = for_rows @ rows + torch.einsum('hbo,bow->hbw', for_own, own)
        # Less than 1 where the null key or topk took weight away.
        mass = for_own.sum(2, keepdim=True) + for_rows.sum(2, keepdim=True)
        mean = mean * self.key_norm.weight + mass * self.key_norm.bias
        values = mean @ self.value.weight.unflatten(0, heads).transpose(1, 2)
        return values + mass * self._by_head(self.value.bias)[:, None], weights

    def _projected(self, query: Tensor, own: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Do the same by projecting own and rows to keys and values."""
        scale, shift = self.key_norm.weight, self.key_norm.bias
        own_keys, keys = (self._by_head(F.linear(x * scale, self.key.weight)) for x in (own, rows))
        own_values, values = (self._by_head(self.value(x * scale + shift)) for x in (own, rows))
        own_scores = torch.einsum('hbd,hbod->hbo', query, own_keys)
        weights = self._weights(query, own_scores, query @ keys.transpose(1, 2))
        for_own, for_rows = _split(weights, own, rows)
        return for_rows @ values + torch.einsum('hbo,hbod->hbd', for_own, own_values), weights

    def _weights(self, query: Tensor, own_scores: Tensor, row_scores: Tensor) -> Tensor:
        """Softmax over all keys, then topk; gives (h, B, L).

        The scores lack what the shift of the norm and the bias of the keys add to all of them
        alike, which the softmax ignores; the null key is not a projected row and makes up for it.
        """
        if self.null_key is None:
            # An exact zero as gradient of the bias, where rounding noise would move it.
            scores = [own_scores, row_scores + 0 * self.key.bias.sum()]
        else:
            common = F.linear(self.key_norm.bias, self.key.weight, self.key.bias)
            null = self._by_head(self.null_key - common)
            scores = [own_scores, row_scores, query @ null[..., None]]
        weights = (torch.cat(scores, dim=2) * self.scale).softmax(dim=2)
        return weights if self.topk is None else self._keep_largest(weights)

    def _keep_largest(self, weights: Tensor) -> Tensor:
        if self.topk == weights.shape[2]:
            return weights
        kept = weights.topk(self.topk, dim=2).indices
        weights = weights * torch.zeros_like(weights).scatter(2, kept, 1)
        return weights / weights.sum(2, keepdim=True) if self.norm_after_topk else weights


def _split(weights: Tensor, own: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Take the weights (h, B, L) on own (B, 0 or 1, W) and rows (N, W), leaving the null key."""
    sizes = [own.shape[1], len(rows)]
    for_own, for_rows, _ = weights.split([*sizes, weights.shape[2] - sum(sizes)], dim=2)
    return for_own, for_rows
