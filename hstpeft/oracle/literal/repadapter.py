"""RepAdapter as its equations say it, by the official names of the weights.

Shapes: B batch, L tokens (ViT: 1 + patches; Swin: h * w), C width, R adapter width, h w grid.
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
from hstpeft.oracle.literal.vit import embed, embed_patches, mlp, vit_shapes

METHODS = {'repblock': ('attn', 'mlp'), 'repattn': ('attn',)}
"""By official method, the branches that have an adapter."""


@dataclass(frozen=True)
class RepAdapterOptions:
    """What the weights do not tell.

    Attributes:
        num_heads: Heads of a ViT's blocks, or of each stage of a Swin.
        scale: Factor of the adapters' outputs.
        window: Window of a Swin, where it is smaller than the grid.
    """

    num_heads: int | Sequence[int]
    scale: float = 1.0
    window: int = 0


def literal_repadapter_vit(
    w: Mapping[str, Tensor], image: Tensor, options: RepAdapterOptions
) -> tuple[list[Tensor], Tensor]:
    """Return the output (B, L, C) of each block and of the final norm, and the logits."""
    x, _ = embed(w, image)
    outputs = []
    for i in range(sum(key.endswith('.norm1.weight') for key in w)):
        name = f'blocks.{i}'
        y = adapt(w, f'{name}.adapter_attn', layer_norm(w, f'{name}.norm1', x, 1e-6), options)
        qkv = linear(w, f'{name}.attn.qkv', y).chunk(3, dim=-1)
        x = x + linear(w, f'{name}.attn.proj', attend(*qkv, options.num_heads))
        y = adapt(w, f'{name}.adapter_mlp', layer_norm(w, f'{name}.norm2', x, 1e-6), options)
        x = x + mlp(w, f'{name}.mlp', y)
        outputs.append(x)
    outputs.append(layer_norm(w, 'norm', x, 1e-6))
    return outputs, linear(w, 'head', outputs[-1][:, 0])


def literal_repadapter_swin(
    w: Mapping[str, Tensor], image: Tensor, options: RepAdapterOptions
) -> tuple[list[Tensor], Tensor]:
    """Return the output (B, L, C) of each stage, merged where it is, and the logits."""
    x, grid = embed_patches(w, image)
    x = layer_norm(w, 'patch_embed.norm', x, 1e-5)
    outputs = []
    for s, depth in enumerate(count_blocks(w)):
        for j in range(depth):
            name = f'layers.{s}.blocks.{j}'
            y = adapt(w, f'{name}.adapter_attn', layer_norm(w, f'{name}.norm1', x, 1e-5), options)
            qkv = linear(w, f'{name}.attn.qkv', y).chunk(3, dim=-1)
            table = w[f'{name}.attn.relative_position_bias_table']
            y = mix_in_windows(*qkv, table, grid, *window_and_shift(grid, options.window, j))
            x = x + linear(w, f'{name}.attn.proj', y)
            y = adapt(w, f'{name}.adapter_mlp', layer_norm(w, f'{name}.norm2', x, 1e-5), options)
            x = x + mlp(w, f'{name}.mlp', y)
        if f'layers.{s}.downsample.norm.weight' in w:
            x, grid = merge_patches(w, f'layers.{s}.downsample', x, grid)
        outputs.append(x)
    return outputs, linear(w, 'head', layer_norm(w, 'norm', x, 1e-5).mean(dim=1))


def adapt(w, name, z, options):
    """Compute ``z + s * (B(A(z)))``, B in groups; without an adapter of that name, z."""
    if f'{name}.conv_A.weight' not in w:
        return z
    hidden = F.linear(z, w[f'{name}.conv_A.weight'].squeeze(-1), w[f'{name}.conv_A.bias'])
    grouped, bias = w[f'{name}.conv_B.weight'].squeeze(-1), w[f'{name}.conv_B.bias']
    groups = hidden.shape[-1] // grouped.shape[-1]
    parts = zip(*(t.chunk(groups, dim) for t, dim in ((hidden, -1), (grouped, 0))), strict=True)
    return z + options.scale * (torch.cat([h @ b.t() for h, b in parts], dim=-1) + bias)


def repadapter_vit_shapes(
    width: int, depth: int, grid: tuple[int, int], patch: int, num_classes: int,
    adapter_dims: int, groups: int = 2, method: str = 'repblock', mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Name -> shape of an official model on a ViT."""
    trunk = vit_shapes(width, depth, grid, patch, num_classes, int(width * mlp_ratio), qkv_bias)
    return {**trunk, **_adapters(trunk, adapter_dims, groups, method)}


def repadapter_swin_shapes(
    width: int, depths: Sequence[int], num_heads: Sequence[int], grid: tuple[int, int], patch: int,
    window: int, num_classes: int, adapter_dims: int, groups: int = 2, method: str = 'repblock',
    mlp_ratio: float = 4.0, qkv_bias: bool = True,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Name -> shape of an official model on a Swin."""
    trunk = swin_shapes(
        width, depths, num_heads, grid, patch, window, num_classes, mlp_ratio, qkv_bias
    )
    return {**trunk, **_adapters(trunk, adapter_dims, groups, method)}


def _adapters(trunk, adapter_dims, groups, method):
    """Name the adapters of the blocks of a trunk."""
    shapes = {}
    norms = {k.removesuffix('.norm1.weight'): v for k, v in trunk.items() if '.norm1.w' in k}
    for block, (width,) in norms.items():
        for branch in METHODS[method]:
            name = f'{block}.adapter_{branch}'
            shapes[f'{name}.conv_A.weight'] = (adapter_dims, width, 1)
            shapes[f'{name}.conv_A.bias'] = (adapter_dims,)
            shapes[f'{name}.conv_B.weight'] = (width, adapter_dims // groups, 1)
            shapes[f'{name}.conv_B.bias'] = (width,)
    return shapes


def is_trainable(name: str) -> bool:
    """Tell by the official rule whether a parameter is trained."""
    return 'adapter' in name or 'head' in name


class LiteralRepAdapter(OfficialModule):
    """The form for a ViT or a Swin, holding (copies of) an official state dict."""

    def __init__(self, official: Mapping[str, Tensor], options: RepAdapterOptions) -> None:
        super().__init__(official, is_trainable)
        self.options = options
        is_vit = 'cls_token' in official
        self.literal = literal_repadapter_vit if is_vit else literal_repadapter_swin

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        return self.literal(self.weights(), image, self.options)
