"""Visual Prompt Tuning as its equations say it, by the official names of the weights.

On a Swin for one image at a time: the official code mixes up the prompts of several.

Shapes: B batch, T prompts, N patches, L = 1 + T + N (Swin: T + N), C width, h w grid of a stage.
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

VIT, SWIN = 'enc.transformer.', 'enc.'


@dataclass(frozen=True)
class VPTOptions:
    """What the weights do not tell.

    Attributes:
        num_heads: Heads of a ViT's blocks, or of each stage of a Swin.
        window: Window of a Swin, where it is smaller than the grid.
    """

    num_heads: int | Sequence[int]
    window: int = 0


def literal_vpt_vit(
    w: Mapping[str, Tensor], image: Tensor, options: VPTOptions
) -> tuple[list[Tensor], Tensor]:
    """Return the output (B, L, C) of each layer and of the final norm, and the logits."""
    kernel = w[f'{VIT}embeddings.patch_embeddings.weight']
    bias = w[f'{VIT}embeddings.patch_embeddings.bias']
    x = F.conv2d(image, kernel, bias, stride=kernel.shape[-2:]).flatten(2).transpose(1, 2)
    cls = w[f'{VIT}embeddings.cls_token'].expand(len(x), -1, -1)
    x = torch.cat([cls, x], dim=1) + w[f'{VIT}embeddings.position_embeddings']
    first, deep = w[f'{VIT}prompt_embeddings'], w.get(f'{VIT}deep_prompt_embeddings')
    x, count, outputs = put(w, x, first, rest=1), first.shape[1], []
    for i in range(sum(key.endswith('.attention_norm.weight') for key in w)):
        if i > 0 and deep is not None:
            x = put(w, x, deep[i - 1 : i], rest=1 + count)
        name = f'{VIT}encoder.layer.{i}'
        y = layer_norm(w, f'{name}.attention_norm', x, 1e-6)
        qkv = (linear(w, f'{name}.attn.{part}', y) for part in ('query', 'key', 'value'))
        x = x + linear(w, f'{name}.attn.out', attend(*qkv, options.num_heads))
        y = F.gelu(linear(w, f'{name}.ffn.fc1', layer_norm(w, f'{name}.ffn_norm', x, 1e-6)))
        x = x + linear(w, f'{name}.ffn.fc2', y)
        outputs.append(x)
    outputs.append(layer_norm(w, f'{VIT}encoder.encoder_norm', x, 1e-6))
    return outputs, linear(w, 'head.last_layer', outputs[-1][:, 0])


def put(w, x, prompts, rest):
    """Put prompts behind the class token; what follows them begins at token ``rest``."""
    if f'{VIT}prompt_proj.weight' in w:
        prompts = linear(w, f'{VIT}prompt_proj', prompts)
    return torch.cat([x[:, :1], prompts.expand(len(x), -1, -1), x[:, rest:]], dim=1)


def literal_vpt_swin(
    w: Mapping[str, Tensor], image: Tensor, options: VPTOptions
) -> tuple[list[Tensor], Tensor]:
    """Return the output (B, L, C) of each stage, merged where it is, and the logits."""
    assert len(image) == 1
    kernel = w[f'{SWIN}patch_embed.proj.weight']
    x = F.conv2d(image, kernel, w[f'{SWIN}patch_embed.proj.bias'], stride=kernel.shape[-2:])
    grid, x = tuple(x.shape[-2:]), x.flatten(2).transpose(1, 2)
    x = layer_norm(w, f'{SWIN}patch_embed.norm', x, 1e-5)
    first, outputs = w[f'{SWIN}prompt_embeddings'], []
    x, count = torch.cat([first, x], dim=1), first.shape[1]
    for s, depth in enumerate(count_blocks(w, SWIN)):
        deep = w.get(f'{SWIN}deep_prompt_embeddings_{s}')
        for j in range(depth):
            row = j - 1 if s == 0 else j  # the very first block has the first prompts
            if deep is not None and row >= 0:
                x = torch.cat([deep[row : row + 1], x[:, count:]], dim=1)
            name = f'{SWIN}layers.{s}.blocks.{j}'
            y = layer_norm(w, f'{name}.norm1', x, 1e-5)
            qkv = linear(w, f'{name}.attn.qkv', y).chunk(3, dim=-1)
            table = w[f'{name}.attn.relative_position_bias_table']
            window, shift = window_and_shift(grid, options.window, j)
            y = mix_in_windows(*qkv, table, grid, window, shift, count)
            x = x + linear(w, f'{name}.attn.proj', y)
            y = F.gelu(linear(w, f'{name}.mlp.fc1', layer_norm(w, f'{name}.norm2', x, 1e-5)))
            x = x + linear(w, f'{name}.mlp.fc2', y)
        if f'{SWIN}layers.{s}.downsample.norm.weight' in w:
            x, grid = merge(w, f'{SWIN}layers.{s}.downsample', x, grid, count)
        outputs.append(x)
    x = layer_norm(w, f'{SWIN}norm', x, 1e-5)
    return outputs, linear(w, 'head.last_layer', x.mean(dim=1))


def merge(w, name, x, grid, count):
    """Merge 2 x 2 cells into one, a prompt with three copies of itself."""
    prompts = layer_norm(w, f'{name}.norm', x[:, :count].repeat(1, 1, 4), 1e-5)
    x, grid = merge_patches(w, name, x[:, count:], grid)
    return torch.cat([linear(w, f'{name}.reduction', prompts), x], dim=1), grid


def vpt_vit_shapes(
    width: int, depth: int, grid: tuple[int, int], patch: int, num_classes: int, mlp_dims: int,
    num_tokens: int, deep: bool = False, prompt_dims: int = -1,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Name -> shape of an official checkpoint on a ViT; ``prompt_dims`` -1 is no projection."""
    own = width if prompt_dims == -1 else prompt_dims
    shapes: dict[str, tuple[int, ...]] = {f'{VIT}prompt_embeddings': (1, num_tokens, own)}
    if deep:
        shapes[f'{VIT}deep_prompt_embeddings'] = (depth - 1, num_tokens, own)
    embeddings = f'{VIT}embeddings.'
    shapes[f'{embeddings}cls_token'] = (1, 1, width)
    shapes[f'{embeddings}position_embeddings'] = (1, 1 + grid[0] * grid[1], width)
    modules: dict[str, tuple[int, ...]] = {
        f'{embeddings}patch_embeddings': (width, 3, patch, patch)
    }
    if prompt_dims > -1:
        modules[f'{VIT}prompt_proj'] = (width, prompt_dims)
    parts = {f'attn.{part}': (width, width) for part in ('query', 'key', 'value', 'out')}
    parts |= {'ffn.fc1': (mlp_dims, width), 'ffn.fc2': (width, mlp_dims)}
    parts |= {'attention_norm': (width,), 'ffn_norm': (width,)}
    for i in range(depth):
        modules |= {f'{VIT}encoder.layer.{i}.{part}': shape for part, shape in parts.items()}
    modules[f'{VIT}encoder.encoder_norm'] = (width,)
    modules['head.last_layer'] = (num_classes, width)
    for name, shape in modules.items():
        shapes |= {f'{name}.weight': shape, f'{name}.bias': shape[:1]}
    return shapes


def vpt_swin_shapes(
    width: int, depths: Sequence[int], num_heads: Sequence[int], grid: tuple[int, int], patch: int,
    window: int, num_classes: int, num_tokens: int, deep: bool = False, mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Name -> shape of an official checkpoint on a Swin."""
    shapes: dict[str, tuple[int, ...]] = {f'{SWIN}prompt_embeddings': (1, num_tokens, width)}
    for s, depth in enumerate(depths if deep else ()):
        rows = depth - 1 if s == 0 else depth
        shapes[f'{SWIN}deep_prompt_embeddings_{s}'] = (rows, num_tokens, width * 2**s)
    trunk = swin_shapes(
        width, depths, num_heads, grid, patch, window, num_classes, mlp_ratio, qkv_bias
    )
    for key, shape in trunk.items():
        is_head = key.startswith('head.')
        shapes[key.replace('head.', 'head.last_layer.') if is_head else SWIN + key] = shape
    return shapes


def is_trainable(name: str) -> bool:
    """Tell by the official rule whether a parameter is trained."""
    return name.startswith('head.') or 'prompt' in name


class LiteralVPT(OfficialModule):
    """`literal_vpt_vit` or `literal_vpt_swin`, holding (copies of) an official state dict."""

    def __init__(self, official: Mapping[str, Tensor], options: VPTOptions) -> None:
        super().__init__(official, is_trainable)
        self.options = options
        is_vit = f'{VIT}prompt_embeddings' in official
        self.literal = literal_vpt_vit if is_vit else literal_vpt_swin

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        return self.literal(self.weights(), image, self.options)
