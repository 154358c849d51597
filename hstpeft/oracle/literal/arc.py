"""Adapter Re-Composing as its equations say it, by the official names of the weights.

Shapes: B batch, L tokens (ViT: 1 + patches; Swin: h * w), C width, R adapter width, h w grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hstpeft.oracle.literal.hst import attend, drop_path, layer_norm, linear, trunk_mask
from hstpeft.oracle.literal.module import OfficialModule


@dataclass(frozen=True)
class ARCOptions:
    """What the weights do not tell.

    Attributes:
        num_heads: Heads of a ViT's blocks, or of each stage of a Swin.
        window: Window of a Swin, where it is smaller than the grid.
        drop_rate: Dropout inside the adapters.
        drop_path_rate: Of a Swin's last block, growing linearly from 0.
    """

    num_heads: int | Sequence[int]
    window: int = 0
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0


def literal_arc_vit(
    w: Mapping[str, Tensor], image: Tensor, options: ARCOptions, training: bool = False
) -> tuple[list[Tensor], Tensor]:
    """Return the output (B, L, C) of each layer and of the final norm, and the logits."""
    kernel = w['embedding.projective.weight']
    x = F.conv2d(image, kernel, w['embedding.projective.bias'], stride=kernel.shape[-2:])
    cls = w['embedding.cls'].expand(len(x), -1, -1)
    x = torch.cat([cls, x.flatten(2).transpose(1, 2)], dim=1) + w['embedding.position_embedding']
    depth, outputs = sum(key.endswith('.attention.query.weight') for key in w), []

    def adapt(name, x):
        """Adapt, where there is an adapter."""
        position = name.rpartition('.')[2].split('_')[0]
        down = w.get(f'transformer.{position}_down_projection')
        if down is None:
            return x
        scale, bias = (w[f'{name}.adapter_{part}'] for part in ('rescale', 'bias'))
        return adapter(x, down, scale, bias, options.drop_rate, training)

    for i in range(depth):
        name = f'transformer.layer.{i}'
        y = adapt(f'{name}.att_adapter', layer_norm(w, f'{name}.att_layer_norm', x, 1e-6))
        qkv = (linear(w, f'{name}.attention.{part}', y) for part in ('query', 'key', 'value'))
        x = x + linear(w, f'{name}.attention.projective', attend(*qkv, options.num_heads))
        y = adapt(f'{name}.mlp_adapter', layer_norm(w, f'{name}.fnn_layer_norm', x, 1e-6))
        x = x + linear(w, f'{name}.mlp.fc2', F.gelu(linear(w, f'{name}.mlp.fc1', y)))
        outputs.append(x)
    outputs.append(layer_norm(w, 'transformer.layer_norm', x, 1e-6))
    return outputs, linear(w, 'head_mlp.head', outputs[-1][:, 0])


def literal_arc_swin(
    w: Mapping[str, Tensor], image: Tensor, options: ARCOptions, training: bool = False
) -> tuple[list[Tensor], Tensor]:
    """Return the output (B, L, C) of each stage, before it is merged, and the logits."""
    kernel = w['patch_embed.proj.weight']
    x = F.conv2d(image, kernel, w['patch_embed.proj.bias'], stride=kernel.shape[-2:])
    grid = tuple(x.shape[-2:])
    x = layer_norm(w, 'patch_embed.norm', x.flatten(2).transpose(1, 2), 1e-5)
    depths = [
        sum(k.startswith(f'layers.{s}.') and k.endswith('.attn.qkv.weight') for k in w)
        for s in range(len(options.num_heads))
    ]
    rates = iter(torch.linspace(0, options.drop_path_rate, sum(depths)).tolist())
    outputs = []
    for s, heads in enumerate(options.num_heads):
        # A window that covers the grid becomes the grid, and nothing is shifted.
        covered = min(grid) <= options.window
        window = min(grid) if covered else options.window
        for j in range(depths[s]):
            name, rate = f'layers.{s}.blocks.{j}', next(rates)

            def adapt(position, x, s=s, name=name):
                """Adapt; without U there is no adapter."""
                if f'layers.{s}.{position}_u' not in w:
                    return x
                scale, bias = w[f'{name}.{position}_lambda'], w[f'{name}.{position}_lambda_bias']
                up = w[f'layers.{s}.{position}_u']
                return adapter(x, up, scale, bias, options.drop_rate, training)

            y = adapt('attn', layer_norm(w, f'{name}.norm1', x, 1e-5))
            shift = 0 if covered or j % 2 == 0 else window // 2
            branch = window_attention(w, f'{name}.attn', y, grid, heads, window, shift)
            x = x + drop_path(branch, rate, training, trunk_mask)
            x = adapt('mlp', x)
            y = F.gelu(linear(w, f'{name}.mlp.fc1', layer_norm(w, f'{name}.norm2', x, 1e-5)))
            x = x + drop_path(linear(w, f'{name}.mlp.fc2', y), rate, training, trunk_mask)
        outputs.append(x)
        if f'layers.{s}.downsample.norm.weight' in w:
            x, grid = merge_patches(w, f'layers.{s}.downsample', x, grid)
    x = layer_norm(w, 'norm', x, 1e-5)
    return outputs, linear(w, 'head', x.mean(dim=1))


def adapter(x, down, scale, bias, drop_rate, training):
    """Compute ``x + dropout(x (D * s)) D^T + b``."""
    return x + F.dropout(x @ (down * scale), drop_rate, training) @ down.T + bias


def window_attention(w, name, x, grid, heads, window, shift):
    """Let every token attend to all tokens, those of other windows masked.

    Shifted windows begin ``shift`` cells later, so those at the border are smaller: this is what
    the cyclic shift and its mask come to.
    """
    y, x_ = (t.flatten() for t in torch.meshgrid(*map(torch.arange, grid), indexing='ij'))
    same = torch.ones(len(y), len(y), dtype=torch.bool)
    for place in (y, x_):
        number = (place - shift).div(window, rounding_mode='floor')
        same &= number[:, None] == number[None, :]
    dy, dx = (place[:, None] - place[None, :] for place in (y, x_))
    row = (dy + window - 1) * (2 * window - 1) + dx + window - 1
    table = w[f'{name}.relative_position_bias_table']
    bias = table[row.masked_fill(~same, 0)].permute(2, 0, 1).masked_fill(~same, -torch.inf)
    q, k, v = (
        t.unflatten(-1, (heads, -1)).transpose(1, 2)
        for t in linear(w, f'{name}.qkv', x).chunk(3, dim=-1)
    )
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5 + bias
    return linear(w, f'{name}.proj', (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))


def merge_patches(w, name, x, grid):
    """Merge 2 x 2 cells into one; returns the tokens and their grid."""
    x = x.unflatten(1, grid)
    places = [(0, 0), (1, 0), (0, 1), (1, 1)]
    x = torch.cat([x[:, row::2, column::2] for row, column in places], dim=-1)
    normed = layer_norm(w, f'{name}.norm', x.flatten(1, 2), 1e-5)
    return linear(w, f'{name}.reduction', normed), tuple(x.shape[1:3])


def is_trainable(name: str) -> bool:
    """Tell by the official rules whether a parameter is trained."""
    words = ('head', 'adapter', 'down_projection', 'attn_u', 'mlp_u', 'lambda')
    return any(word in name for word in words)


class LiteralARC(OfficialModule):
    """`literal_arc_vit` or `literal_arc_swin`, holding (copies of) an official state dict."""

    def __init__(self, official: Mapping[str, Tensor], options: ARCOptions) -> None:
        super().__init__(official, is_trainable)
        self.options = options
        self.literal = literal_arc_vit if 'embedding.cls' in official else literal_arc_swin

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        return self.literal(self.weights(), image, self.options, self.training)
