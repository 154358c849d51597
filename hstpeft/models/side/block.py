"""A block of the side network.

Shapes: B batch, L = H * W side tokens, D side width, K keys (meta tokens and the mean patch), h heads.
"""

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.models.recompute import recomputed


class MetaAttention(nn.Module):
    """Cross-attention of many side tokens to few keys.

    With K keys and h heads the scores are ``x A^T + c`` and the output ``softmax(scores) U + b``
    where A and U have h * K rows: the query weights are folded with the keys and the output
    weights with the values. This is exact for any K and cheaper while h * K < D.
    """

    def __init__(self, dims: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dims, dims, qkv_bias)
        self.k = nn.Linear(dims, dims, qkv_bias)
        self.v = nn.Linear(dims, dims, qkv_bias)
        self.proj = nn.Linear(dims, dims)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        """Attend from x (B, L, D) to keys (B, K, D); returns (B, L, D)."""
        if self.num_heads * keys.shape[1] < x.shape[2]:
            return self._folded(x, keys)
        return self._plain(x, keys)

    def _keys(self, keys: Tensor) -> Tensor:
        """Project keys (B, K, D); the bias moves all scores alike, which the softmax ignores.

        It exists for the official checkpoints' sake. Its gradient is exactly 0 this way, where
        rounding noise would be blown up to whole steps by Adam.
        """
        projected = F.linear(keys, self.k.weight)
        return projected if self.k.bias is None else projected + 0 * self.k.bias

    def _plain(self, x: Tensor, keys: Tensor) -> Tensor:
        q, k, v = (
            tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for tokens in (self.q(x), self._keys(keys), self.v(keys))
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))

    def _folded(self, x: Tensor, keys: Tensor) -> Tensor:
        # score = (x Wq^T + bq) k = x (k Wq) + bq k: the few keys go through Wq, not the many tokens;
        # out = (w v) Wp^T + bp = w (v Wp^T) + bp: likewise the few values through Wp.
        heads = (self.num_heads, -1)
        scale = (x.shape[2] // self.num_heads) ** -0.5
        k = self._keys(keys).unflatten(-1, heads).transpose(1, 2) * scale  # B h K d
        v = self.v(keys).unflatten(-1, heads).transpose(1, 2)
        query_rows = k @ self.q.weight.unflatten(0, heads)  # B h K D
        offset = k.new_zeros(1, 1, 1)
        if self.q.bias is not None:
            offset = (k @ self.q.bias.unflatten(0, heads).unsqueeze(-1)).flatten(1, 2)  # B hK 1
        value_rows = v @ self.proj.weight.t().unflatten(0, heads)  # B h K D
        scores = torch.baddbmm(offset, query_rows.flatten(1, 2), x.transpose(1, 2))
        # (B, h, K, L): the softmax runs over a strided axis, which is fast for few keys.
        weights = scores.unflatten(1, (self.num_heads, -1)).softmax(dim=2).flatten(1, 2)
        return torch.baddbmm(self.proj.bias, weights.transpose(1, 2), value_rows.flatten(1, 2))


class SideBlock(nn.Module):
    """Attention to meta tokens and mean, injection of the trunk's patches, MLP.

    ``x + attn(LN(x), keys)``, then ``+ patches``, then ``x + mlp(LN(x))``.

    Args:
        dims: D.
        num_heads: h.
        mlp_ratio: Hidden width of the MLP over D.
        drop_path_rate: Drop path of both branches.
        qkv_bias: Whether query, key and value of the attention have a bias.
        with_cp: Whether the stage runs the whole block again in the backward pass.
    """

    def __init__(
        self,
        dims: int,
        num_heads: int,
        mlp_ratio: float,
        drop_path_rate: float,
        qkv_bias: bool,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        hidden = int(dims * mlp_ratio)
        self.norm1 = nn.LayerNorm(dims, eps=1e-6)
        self.attn = MetaAttention(dims, num_heads, qkv_bias)
        self.norm2 = nn.LayerNorm(dims, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dims, hidden), nn.GELU(), nn.Linear(hidden, dims))
        self.drop_path = DropPath(drop_path_rate)
        self.with_cp = with_cp

    def forward(self, x: Tensor, meta: Tensor, patches: Tensor) -> Tensor:
        """Update side tokens.

        Args:
            x: Side tokens (B, L, D).
            meta: Normalised meta tokens (B, M, D).
            patches: Bridged patch tokens (B, L, D).
        """
        keys = torch.cat([meta, patches.mean(dim=1, keepdim=True)], dim=1)
        x = x + self.drop_path(self.attn(self.norm1(x), keys)) + patches
        # The MLP is cheap to run again and would keep nine maps of width D for the backward pass.
        branch = recomputed(self._mlp, x, when=not self.with_cp, preserve_rng_state=False)
        return x + self.drop_path(branch)

    def _mlp(self, x: Tensor) -> Tensor:
        return self.mlp(self.norm2(x))
