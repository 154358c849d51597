"""What SA2VP adds to a block.

Shapes: B batch, L tokens, K heads, D width of a head, C = K * D trunk width.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CrossBlock(nn.Module):
    """What is learned about reading: norm and a narrow MLP, without a residual around them."""

    def __init__(self, dims: int, inner_dims: int, drop_rate: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dims, eps=1e-6)
        self.down = nn.Linear(dims, inner_dims)
        self.up = nn.Linear(inner_dims, dims)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, read: Tensor, reader: Tensor) -> Tensor:
        """Turn what was read (B, L, C) and the reader (B or 1, L, C) into (B, L, C)."""
        tokens = (self.drop(read) + reader).to(self.norm.weight.dtype)
        hidden = self.drop(F.gelu(self.down(self.norm(tokens))))
        return self.drop(self.up(hidden)).to(read.dtype)


class FrozenCopy(nn.Module):
    """Cross-attention weights apart from the block's."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.norm = copy.deepcopy(block.norm1)
        self.qkv, self.proj = copy.deepcopy(block.attn.qkv), copy.deepcopy(block.attn.proj)

    def project(self, normed: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """Project normalised tokens (B, L, C) to queries, keys and values (B, K, L, D) each."""
        qkv = self.qkv(normed).unflatten(-1, (3, num_heads, -1))
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)


def resize_prompt(
    prompt: Tensor, grid: tuple[int, int], own_grid: tuple[int, int], num_prefix_tokens: int
) -> Tensor:
    """Resize the patches of a prompt (1, P + h * w, R) to another grid, bilinearly."""
    if grid == own_grid:
        return prompt
    prefix, patches = prompt[:, :num_prefix_tokens], prompt[:, num_prefix_tokens:]
    patches = patches.transpose(1, 2).unflatten(2, own_grid)
    patches = F.interpolate(patches, grid, mode='bilinear', align_corners=False)
    return torch.cat([prefix, patches.flatten(2).transpose(1, 2)], dim=1)
