"""Learnable memory tokens as their equations say it, by the official names of the weights.

Shapes: B batch, M memory tokens, N = h * w patches, L = 1 + N (+ M) tokens, C width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hstpeft.oracle.literal.hst import attend, layer_norm, linear, norm_mlp
from hstpeft.oracle.literal.module import OfficialModule


@dataclass(frozen=True)
class MemoryTokensOptions:
    """What the weights do not tell."""

    num_heads: int
    mode: str = 'prop'
    global_pool: str = 'token'


def literal_memory_tokens(
    w: Mapping[str, Tensor], image: Tensor, options: MemoryTokensOptions
) -> tuple[list[Tensor], Tensor]:
    """Return the output (B, L, C) of each block and of the final norm, and the logits."""
    kernel = w['patch_embed.proj.weight']
    x = F.conv2d(image, kernel, w['patch_embed.proj.bias'], stride=kernel.shape[-2:])
    cls = w['cls_token'].expand(len(x), -1, -1)
    x = torch.cat([cls, x.flatten(2).transpose(1, 2)], dim=1) + w['pos_embed']
    outputs, length = [], x.shape[1]
    for i in range(sum(key.endswith('.attn.qkv.weight') for key in w)):
        if f'blocks.{i}.added_mem' in w:
            x = torch.cat([x, w[f'blocks.{i}.added_mem'].expand(len(x), -1, -1)], dim=1)
        qkv = linear(w, f'blocks.{i}.attn.qkv', layer_norm(w, f'blocks.{i}.norm1', x, 1e-6))
        branch = attend(*qkv.chunk(3, dim=-1), options.num_heads)
        x = x + linear(w, f'blocks.{i}.attn.proj', branch)
        x = x + norm_mlp(w, f'blocks.{i}', x)
        if options.mode == 'standard':
            x = x[:, :length]
        outputs.append(x)
    if options.global_pool == 'token':
        outputs.append(layer_norm(w, 'norm', x, 1e-6))
        return outputs, linear(w, 'head', outputs[-1][:, 0])
    outputs.append(x)
    return outputs, linear(w, 'head', layer_norm(w, 'fc_norm', x[:, 1:].mean(dim=1), 1e-6))


def memory_tokens_shapes(
    width: int,
    depth: int,
    grid: tuple[int, int],
    patch: int,
    num_classes: int,
    num_memory_tokens: int,
    mode: str = 'prop',
    global_pool: str = 'token',
    mlp_ratio: float = 4.0,
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of an official checkpoint."""
    shapes: dict[str, tuple[int, ...]] = {
        'cls_token': (1, 1, width),
        'pos_embed': (1, 1 + grid[0] * grid[1], width),
        'patch_embed.proj.weight': (width, 3, patch, patch),
        'patch_embed.proj.bias': (width,),
    }
    hidden = int(width * mlp_ratio)
    linears = {
        'attn.qkv': (3 * width, width), 'attn.proj': (width, width),
        'mlp.fc1': (hidden, width), 'mlp.fc2': (width, hidden),
    }  # fmt: skip
    norms = []
    for i in range(depth):
        if i == 0 or mode == 'standard':
            shapes[f'blocks.{i}.added_mem'] = (1, num_memory_tokens, width)
        for part, shape in linears.items():
            shapes[f'blocks.{i}.{part}.weight'] = shape
            shapes[f'blocks.{i}.{part}.bias'] = shape[:1]
        norms += [f'blocks.{i}.norm1', f'blocks.{i}.norm2']
    for name in (*norms, 'norm' if global_pool == 'token' else 'fc_norm'):
        shapes.update({f'{name}.weight': (width,), f'{name}.bias': (width,)})
    return {**shapes, 'head.weight': (num_classes, width), 'head.bias': (num_classes,)}


def is_trainable(name: str) -> bool:
    """Tell by the official rule (``--tune_head``) whether a parameter is trained."""
    return any(word in name for word in ('head', 'cls_token', 'added_mem'))


class LiteralMemoryTokens(OfficialModule):
    """`literal_memory_tokens` as a module that holds (copies of) an official state dict."""

    def __init__(self, official: Mapping[str, Tensor], options: MemoryTokensOptions) -> None:
        super().__init__(official, is_trainable)
        self.options = options

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        return literal_memory_tokens(self.weights(), image, self.options)
