"""Scaling and Shifting Your Features as its equations say it, by the official names of the weights.

Shapes: B batch, L tokens (ViT: 1 + patches; Swin: h * w), C width, h w grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hstpeft.oracle.literal.arc import merge_patches
from hstpeft.oracle.literal.hst import attend, layer_norm, linear
from hstpeft.oracle.literal.module import OfficialModule
from hstpeft.oracle.literal.swin import (
    count_blocks,
    mix_in_windows,
    swin_shapes,
    window_and_shift,
)
from hstpeft.oracle.literal.vit import vit_shapes


@dataclass(frozen=True)
class SSFOptions:
    """What the weights do not tell.

    Attributes:
        num_heads: Heads of a ViT's blocks, or of each stage of a Swin.
        window: Window of a Swin, where it is smaller than the grid.
    """

    num_heads: int | Sequence[int]
    window: int = 0


def literal_ssf_vit(
    w: Mapping[str, Tensor], image: Tensor, options: SSFOptions
) -> tuple[list[Tensor], Tensor]:
    """Return the output (B, L, C) of each block and of the final norm, and the logits."""
    x, _ = embed(w, image)
    cls = w['cls_token'].expand(len(x), -1, -1)
    x = torch.cat([cls, x], dim=1) + w['pos_embed']
    outputs = []
    for i in range(sum(key.endswith('.norm1.weight') for key in w)):
        name = f'blocks.{i}.'
        y = pair(w, name, 1, layer_norm(w, f'{name}norm1', x, 1e-6))
        qkv = pair(w, f'{name}attn.', 1, linear(w, f'{name}attn.qkv', y))
        y = attend(*qkv.chunk(3, dim=-1), options.num_heads)
        x = x + pair(w, f'{name}attn.', 2, linear(w, f'{name}attn.proj', y))
        x = x + mlp(w, f'{name}mlp.', pair(w, name, 2, layer_norm(w, f'{name}norm2', x, 1e-6)))
        outputs.append(x)
    outputs.append(pair(w, '', 1, layer_norm(w, 'norm', x, 1e-6)))
    return outputs, linear(w, 'head', outputs[-1][:, 0])


def literal_ssf_swin(
    w: Mapping[str, Tensor], image: Tensor, options: SSFOptions
) -> tuple[list[Tensor], Tensor]:
    """Return the output (B, L, C) of each stage, merged where it is, and the logits."""
    x, grid = embed(w, image)
    x = pair(w, 'patch_embed.', 2, layer_norm(w, 'patch_embed.norm', x, 1e-5))
    outputs = []
    for s, depth in enumerate(count_blocks(w)):
        for j in range(depth):
            name = f'layers.{s}.blocks.{j}.'
            y = pair(w, name, 1, layer_norm(w, f'{name}norm1', x, 1e-5))
            qkv = pair(w, f'{name}attn.', 1, linear(w, f'{name}attn.qkv', y)).chunk(3, dim=-1)
            table = w[f'{name}attn.relative_position_bias_table']
            y = mix_in_windows(*qkv, table, grid, *window_and_shift(grid, options.window, j))
            x = x + pair(w, f'{name}attn.', 2, linear(w, f'{name}attn.proj', y))
            y = pair(w, name, 2, layer_norm(w, f'{name}norm2', x, 1e-5))
            x = x + mlp(w, f'{name}mlp.', y)
        if f'layers.{s}.downsample.norm.weight' in w:
            x, grid = merge_patches(w, f'layers.{s}.downsample', x, grid)
        outputs.append(x)
    x = pair(w, '', 1, layer_norm(w, 'norm', x, 1e-5))
    return outputs, linear(w, 'head', x.mean(dim=1))


def pair(w, place, number, x):
    """Apply ``x * scale + shift`` per channel."""
    return x * w[f'{place}ssf_scale_{number}'] + w[f'{place}ssf_shift_{number}']


def embed(w, image):
    """Return the patches (B, h * w, C) and their grid."""
    kernel = w['patch_embed.proj.weight']
    x = F.conv2d(image, kernel, w['patch_embed.proj.bias'], stride=kernel.shape[-2:])
    return pair(w, 'patch_embed.', 1, x.flatten(2).transpose(1, 2)), tuple(x.shape[-2:])


def mlp(w, name, x):
    x = F.gelu(pair(w, name, 1, linear(w, f'{name}fc1', x)))
    return pair(w, name, 2, linear(w, f'{name}fc2', x))


def ssf_vit_shapes(
    width: int, depth: int, grid: tuple[int, int], patch: int, num_classes: int,
    mlp_ratio: float = 4.0, qkv_bias: bool = True,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Name -> shape of an official checkpoint on a ViT."""
    trunk = vit_shapes(width, depth, grid, patch, num_classes, int(width * mlp_ratio), qkv_bias)
    return {**trunk, **_pairs(trunk)}


def ssf_swin_shapes(
    width: int, depths: Sequence[int], num_heads: Sequence[int], grid: tuple[int, int], patch: int,
    window: int, num_classes: int, mlp_ratio: float = 4.0, qkv_bias: bool = True,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Name -> shape of an official checkpoint on a Swin."""
    trunk = swin_shapes(
        width, depths, num_heads, grid, patch, window, num_classes, mlp_ratio, qkv_bias
    )
    return {**trunk, **_pairs(trunk)}


def _pairs(trunk):
    """Name the pairs behind the layers of a trunk: the patch merging has none, nor the head."""
    firsts, seconds = ('norm1', 'attn.qkv', 'mlp.fc1'), ('norm2', 'attn.proj', 'mlp.fc2')
    outer = {'patch_embed.proj': 1, 'patch_embed.norm': 2, 'norm': 1}
    shapes = {}
    for key, shape in trunk.items():
        layer, _, leaf = key.rpartition('.')
        number = outer.get(layer)
        if '.blocks.' in f'.{layer}':
            number = 1 if layer.endswith(firsts) else 2 if layer.endswith(seconds) else None
        if leaf == 'weight' and number:
            place = layer.rpartition('.')[0]
            for kind in ('scale', 'shift'):
                shapes[f'{place}.ssf_{kind}_{number}'.lstrip('.')] = shape[:1]
    return shapes


def is_trainable(name: str) -> bool:
    """Tell by the official rule whether a parameter is trained."""
    return any(word in name for word in ('head.', 'ssf_scale', 'ssf_shift_'))


class LiteralSSF(OfficialModule):
    """`literal_ssf_vit` or `literal_ssf_swin`, holding (copies of) an official state dict."""

    def __init__(self, official: Mapping[str, Tensor], options: SSFOptions) -> None:
        super().__init__(official, is_trainable)
        self.options = options
        self.literal = literal_ssf_vit if 'cls_token' in official else literal_ssf_swin

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        return self.literal(self.weights(), image, self.options)
