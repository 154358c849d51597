"""SA2VP on a Swin as its equations say it, by the official names of the weights.

Shapes: B batch, L = h * w cells of a stage's grid, C its width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hstpeft.oracle.literal.arc import merge_patches, window_attention
from hstpeft.oracle.literal.arc_shapes import arc_swin_shapes
from hstpeft.oracle.literal.hst import layer_norm, linear
from hstpeft.oracle.literal.module import OfficialModule
from hstpeft.oracle.literal.sa2vp import ffn, is_trainable, neighbours

STAGE = 2


@dataclass(frozen=True)
class SA2VPSwinOptions:
    """What the weights do not tell."""

    num_heads: Sequence[int]
    window: int
    exchange_indices: Sequence[int] = (0, 6, 12)
    mixing_weight: float = 0.5
    drop_path_rate: float = 0.0  # scales the branches as if no sample were dropped


def literal_sa2vp_swin(
    w: Mapping[str, Tensor],
    image: Tensor,
    o: SA2VPSwinOptions,
    kept: dict[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the logits of the image and of the prompt branch, (B, classes) each.

    What the reference cases show on the way goes into ``kept``, by their names.
    """
    kept = {} if kept is None else kept
    embed = 'vit_base.patch_embed'
    kernel = w[f'{embed}.proj.weight']
    x = F.conv2d(image, kernel, w[f'{embed}.proj.bias'], stride=kernel.shape[-2:])
    grid, x = tuple(x.shape[-2:]), x.flatten(2).transpose(1, 2)
    p = linear(w, f'{embed}.proj_ppt', w[f'{embed}.deep_ppt']).expand(len(x), -1, -1)
    x, p = (layer_norm(w, f'{embed}.norm', t, 1e-5) for t in (x, p))
    depths = count_blocks(w)
    rates = iter(torch.linspace(0, o.drop_path_rate, sum(depths)).tolist())
    for stage, depth in enumerate(depths):
        name, heads = f'vit_base.layers.{stage}', o.num_heads[stage]
        for i in range(depth):
            if stage == STAGE:
                source, reader = (x, p) if i in o.exchange_indices else (p, x)
                f = cross_block(w, f'{name}.cross_attn.{i}', source, reader, grid, heads)
                kept[f'fusion{i}'] = f
            rate = next(rates)
            x, p = (block(w, name, i, t, grid, heads, o.window, rate) for t in (x, p))
            if stage == STAGE and i in o.exchange_indices:
                p = p + o.mixing_weight * f
            elif stage == STAGE:
                x = x + o.mixing_weight * f
        if stage + 1 < len(depths):
            merged = [merge_patches(w, f'{name}.downsample', t, grid) for t in (x, p)]
            (x, grid), (p, _) = merged
        if stage == STAGE:
            kept['stage2_base'], kept['stage2_prompt'] = x, p
    x, p = (layer_norm(w, 'vit_base.norm', t, 1e-5).mean(dim=1) for t in (x, p))
    return linear(w, 'class_head', x), linear(w, 'class_head', p)


def block(w, stage, number, x, grid, heads, window, drop_path_rate):
    """Run one frozen block on x (B, L, C); the odd ones shift their windows."""
    covered = min(grid) <= window
    window, shift = (min(grid), 0) if covered else (window, number % 2 * (window // 2))
    name, scale = f'{stage}.blocks.{number}', 1 / (1 - drop_path_rate)
    normed = layer_norm(w, f'{name}.norm1', x, 1e-5)
    x = x + scale * window_attention(w, f'{name}.attn', normed, grid, heads, window, shift)
    hidden = F.gelu(linear(w, f'{name}.mlp.fc1', layer_norm(w, f'{name}.norm2', x, 1e-5)))
    return x + scale * linear(w, f'{name}.mlp.fc2', hidden)


def count_blocks(w: Mapping[str, Tensor]) -> list[int]:
    """Return the number of blocks of each stage."""
    ends = [name.split('.')[2:5:2] for name in w if name.endswith('.mlp.fc1.weight')]
    return [sum(stage == str(s) for stage, _ in ends) for s in range(len({s for s, _ in ends}))]


def cross_block(w, name, source, reader, grid, heads):
    """Let the reader (B, L, C) read the source's neighbourhoods."""
    dims = reader.shape[-1]
    kv, q = (layer_norm(w, f'{name}.attention_norm', t, 1e-6) for t in (source, reader))
    weight, bias = w[f'{name}.attn.qkv.weight'], w[f'{name}.attn.qkv.bias']
    q = F.linear(q, weight[:dims], bias[:dims])
    k, v = F.linear(kv, weight[dims:], bias[dims:]).chunk(2, dim=-1)
    mixed = neighbours(q, k, v, grid, heads, pad=False)
    return ffn(w, name, linear(w, f'{name}.attn.to_out', mixed) + reader)


def sa2vp_swin_shapes(
    width: int,
    depths: Sequence[int],
    heads: Sequence[int],
    window: int,
    grid: tuple[int, int],
    patch: int,
    inner: int,
    num_classes: int,
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of an official checkpoint; ``grid`` is the first stage's."""
    trunk = arc_swin_shapes(width, depths, heads, grid, patch, window, 1, 1, positions=())
    shapes = {f'vit_base.{name}': shape for name, shape in trunk.items() if 'head' not in name}
    shapes['vit_base.patch_embed.deep_ppt'] = (1, grid[0] * grid[1], inner)
    dims = width * 2**STAGE
    modules = {'vit_base.patch_embed.proj_ppt': (width, inner)}
    for i in range(depths[STAGE]):
        name = f'vit_base.layers.{STAGE}.cross_attn.{i}'
        modules |= {f'{name}.attn.qkv': (3 * dims, dims), f'{name}.attn.to_out': (dims, dims)}
        modules |= {f'{name}.attention_norm': (dims,), f'{name}.ffn_norm': (dims,)}
        modules |= {f'{name}.ffn.fc1': (inner, dims), f'{name}.ffn.fc2': (dims, inner)}
    modules['class_head'] = (num_classes, width * 2 ** (len(depths) - 1))
    for name, shape in modules.items():
        shapes |= {f'{name}.weight': shape, f'{name}.bias': shape[:1]}
    return shapes


class LiteralSA2VPSwin(OfficialModule):
    """`literal_sa2vp_swin` as a module that holds (copies of) an official state dict."""

    def __init__(self, official: Mapping[str, Tensor], options: SA2VPSwinOptions) -> None:
        super().__init__(official, is_trainable)
        self.options = options

    def forward(
        self, image: Tensor, kept: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        return literal_sa2vp_swin(self.weights(), image, self.options, kept)
