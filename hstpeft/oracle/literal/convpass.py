"""Convpass as its equations say it, by the official names of the weights.

Shapes: B batch, L tokens (ViT: 1 + patches; Swin: h * w), C width, R bypass width, h w grid.
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


@dataclass(frozen=True)
class ConvpassOptions:
    """What the weights do not tell.

    Attributes:
        num_heads: Heads of a ViT's blocks, or of each stage of a Swin.
        scale: Factor of the bypasses' outputs.
        window: Window of a Swin, where it is smaller than the grid.
    """

    num_heads: int | Sequence[int]
    scale: float = 1.0
    window: int = 0


def literal_convpass_vit(
    w: Mapping[str, Tensor], image: Tensor, options: ConvpassOptions
) -> tuple[list[Tensor], Tensor]:
    """Return the output (B, L, C) of each block and of the final norm, and the logits."""
    x, grid = embed(w, image)
    outputs = []
    for i in range(sum(key.endswith('.norm1.weight') for key in w)):
        name = f'blocks.{i}'
        y = layer_norm(w, f'{name}.norm1', x, 1e-6)
        qkv = linear(w, f'{name}.attn.qkv', y).chunk(3, dim=-1)
        branch = linear(w, f'{name}.attn.proj', attend(*qkv, options.num_heads))
        x = x + branch + bypass(w, f'{name}.adapter_attn', y, grid, options)
        y = layer_norm(w, f'{name}.norm2', x, 1e-6)
        x = x + mlp(w, f'{name}.mlp', y) + bypass(w, f'{name}.adapter_mlp', y, grid, options)
        outputs.append(x)
    outputs.append(layer_norm(w, 'norm', x, 1e-6))
    return outputs, linear(w, 'head', outputs[-1][:, 0])


def literal_convpass_swin(
    w: Mapping[str, Tensor], image: Tensor, options: ConvpassOptions
) -> tuple[list[Tensor], Tensor]:
    """Return the output (B, L, C) of each stage, merged where it is, and the logits."""
    x, grid = embed_patches(w, image)
    x = layer_norm(w, 'patch_embed.norm', x, 1e-5)
    outputs = []
    for s, depth in enumerate(count_blocks(w)):
        for j in range(depth):
            name = f'layers.{s}.blocks.{j}'
            y = layer_norm(w, f'{name}.norm1', x, 1e-5)
            qkv = linear(w, f'{name}.attn.qkv', y).chunk(3, dim=-1)
            table = w[f'{name}.attn.relative_position_bias_table']
            mixed = mix_in_windows(*qkv, table, grid, *window_and_shift(grid, options.window, j))
            branch = linear(w, f'{name}.attn.proj', mixed)
            x = x + branch + bypass(w, f'{name}.adapter_attn', y, grid, options)
            y = layer_norm(w, f'{name}.norm2', x, 1e-5)
            x = x + mlp(w, f'{name}.mlp', y) + bypass(w, f'{name}.adapter_mlp', y, grid, options)
        if f'layers.{s}.downsample.norm.weight' in w:
            x, grid = merge_patches(w, f'layers.{s}.downsample', x, grid)
        outputs.append(x)
    return outputs, linear(w, 'head', layer_norm(w, 'norm', x, 1e-5).mean(dim=1))


def bypass(w, name, z, grid, options):
    """Compute ``s * up(g(conv(g(down(z)))))``, where there is one; the patches are the last tokens."""
    if f'{name}.adapter_down.weight' not in w:
        return 0
    z = quick_gelu(linear(w, f'{name}.adapter_down', z))
    num_front = z.shape[1] - grid[0] * grid[1]
    maps = [z[:, i, :, None, None] for i in range(num_front)]
    maps.append(z[:, num_front:].transpose(1, 2).unflatten(2, grid))
    weight, bias = (w[f'{name}.adapter_conv.{leaf}'] for leaf in ('weight', 'bias'))
    convolved = [F.conv2d(x, weight, bias, padding=1).flatten(2).transpose(1, 2) for x in maps]
    return options.scale * linear(w, f'{name}.adapter_up', quick_gelu(torch.cat(convolved, dim=1)))


def quick_gelu(t):
    return t * torch.sigmoid(1.702 * t)


def convpass_vit_shapes(
    width: int, depth: int, grid: tuple[int, int], patch: int, num_classes: int,
    adapter_dims: int, method: str, mlp_ratio: float = 4.0, qkv_bias: bool = True,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Name -> shape of an official checkpoint on a ViT."""
    trunk = vit_shapes(width, depth, grid, patch, num_classes, int(width * mlp_ratio), qkv_bias)
    return {**trunk, **_bypasses(trunk, adapter_dims, method)}


def convpass_swin_shapes(
    width: int, depths: Sequence[int], num_heads: Sequence[int], grid: tuple[int, int], patch: int,
    window: int, num_classes: int, adapter_dims: int, method: str, mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Name -> shape of an official checkpoint on a Swin."""
    trunk = swin_shapes(
        width, depths, num_heads, grid, patch, window, num_classes, mlp_ratio, qkv_bias
    )
    return {**trunk, **_bypasses(trunk, adapter_dims, method)}


def _bypasses(trunk, inner, method):
    """Name the bypasses of the blocks of a trunk."""
    shapes = {}
    for key, (width, *_) in trunk.items():
        block, found, _ = key.rpartition('.norm1.weight')
        for position in ('attn', 'mlp')[: 2 if method == 'convpass' else 1] if found else ():
            parts = {'conv': (inner, inner, 3, 3), 'down': (inner, width), 'up': (width, inner)}
            for part, shape in parts.items():
                name = f'{block}.adapter_{position}.adapter_{part}'
                shapes |= {f'{name}.weight': shape, f'{name}.bias': shape[:1]}
    return shapes


def is_trainable(name: str) -> bool:
    """Tell by the official rule whether a parameter is trained."""
    return 'adapter' in name or 'head' in name


class LiteralConvpass(OfficialModule):
    """`literal_convpass_vit` or `literal_convpass_swin`, holding (copies of) an official state dict."""

    def __init__(self, official: Mapping[str, Tensor], options: ConvpassOptions) -> None:
        super().__init__(official, is_trainable)
        self.options = options
        self.literal = literal_convpass_vit if 'cls_token' in official else literal_convpass_swin

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        return self.literal(self.weights(), image, self.options)
