"""Hierarchical Visual Transformers as their equations say it, by the official names of the weights.

Shapes: B batch, N tokens, C width, H W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hstpeft.oracle.literal.hst import attend, drop_path, layer_norm, linear, norm_mlp, trunk_mask
from hstpeft.oracle.literal.module import OfficialModule


@dataclass(frozen=True)
class HVTOptions:
    """What the weights do not tell. Where a block pools, they do: it has a ``pos_embed``."""

    num_heads: int
    pool_kernel_size: int = 3
    pool_stride: int = 2
    drop_path_rate: float = 0.0


def literal_hvt(
    w: Mapping[str, Tensor], image: Tensor, options: HVTOptions, training: bool = False
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return the output of each block (B, N, C), the feature (B, C) and the logits."""
    kernel = w['patch_embed.proj.weight']
    x = F.conv2d(image, kernel, w['patch_embed.proj.bias'], stride=kernel.shape[-2:])
    x = x.flatten(2).transpose(1, 2) + w['pos_embed']
    depth = sum(key.endswith('.attn.qkv.weight') for key in w)
    outputs = []
    for i, rate in enumerate(torch.linspace(0, options.drop_path_rate, depth).tolist()):
        qkv = linear(w, f'blocks.{i}.attn.qkv', layer_norm(w, f'blocks.{i}.norm1', x, 1e-6))
        branch = attend(*qkv.chunk(3, dim=-1), options.num_heads)
        branch = linear(w, f'blocks.{i}.attn.proj', branch)
        x = x + drop_path(branch, rate, training, trunk_mask)
        x = x + drop_path(norm_mlp(w, f'blocks.{i}', x), rate, training, trunk_mask)
        if f'blocks.{i}.pos_embed' in w:
            windows = x.unfold(1, options.pool_kernel_size, options.pool_stride)
            x = windows.amax(dim=-1) + w[f'blocks.{i}.pos_embed']
        outputs.append(x)
    feature = layer_norm(w, 'norm', x, 1e-6).mean(dim=1)
    return outputs, feature, linear(w, 'head', feature)


def hvt_shapes(
    width: int,
    depth: int,
    grid: tuple[int, int],
    patch: int,
    num_classes: int,
    pool_width: int | None,
    kernel: int = 3,
    stride: int = 2,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of an official checkpoint, in the official order; None pools nowhere."""
    hidden, length = int(width * mlp_ratio), grid[0] * grid[1]
    shapes: dict[str, tuple[int, ...]] = {'pos_embed': (1, length, width)}
    shapes['patch_embed.proj.weight'] = (width, 3, patch, patch)
    shapes['patch_embed.proj.bias'] = (width,)
    modules = {'norm1': (width,), 'attn.qkv': (3 * width, width), 'attn.proj': (width, width)}
    modules |= {'norm2': (width,), 'mlp.fc1': (hidden, width), 'mlp.fc2': (width, hidden)}
    for i in range(depth):
        if pool_width and i % pool_width == 0:
            length = (length - kernel) // stride + 1
            shapes[f'blocks.{i}.pos_embed'] = (1, length, width)
        for name, shape in modules.items():
            shapes[f'blocks.{i}.{name}.weight'] = shape
            if qkv_bias or name != 'attn.qkv':
                shapes[f'blocks.{i}.{name}.bias'] = shape[:1]
    shapes |= {'norm.weight': (width,), 'norm.bias': (width,)}
    return {**shapes, 'head.weight': (num_classes, width), 'head.bias': (num_classes,)}


class LiteralHVT(OfficialModule):
    """`literal_hvt` as a module that holds (copies of) an official state dict."""

    def __init__(self, official: Mapping[str, Tensor], options: HVTOptions) -> None:
        super().__init__(official)
        self.options = options

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        return literal_hvt(self.weights(), image, self.options, self.training)
