"""AdaptFormer as its equations say it, by the official names of the weights.

Shapes: B batch, T prompt tokens, L = 1 + patches, C width, R adapter width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hstpeft.oracle.literal.hst import attend, batch_norm, is_buffer, layer_norm, linear
from hstpeft.oracle.literal.module import OfficialModule
from hstpeft.oracle.literal.vit import vit_shapes


@dataclass(frozen=True)
class AdaptFormerOptions:
    """What the weights do not tell.

    Attributes:
        num_heads: Heads of the blocks.
        form: ``parallel`` or ``sequential``.
        scale: Factor of the adapters' outputs, where it is not learned.
        norm: What of the adapters is normalised: ``none``, ``in`` or ``out``.
    """

    num_heads: int
    form: str = 'parallel'
    scale: float = 0.1
    norm: str = 'none'


def literal_adaptformer(
    w: Mapping[str, Tensor], image: Tensor, options: AdaptFormerOptions
) -> tuple[list[Tensor], Tensor]:
    """Return the output (B, L, C) of each block and the normed tokens, and the logits.

    With average pooling what is normed is not tokens but their mean (B, C).
    """
    kernel = w['patch_embed.proj.weight']
    x = F.conv2d(image, kernel, w['patch_embed.proj.bias'], stride=kernel.shape[-2:])
    cls = w['cls_token'].expand(len(x), -1, -1)
    x = torch.cat([cls, x.flatten(2).transpose(1, 2)], dim=1) + w['pos_embed']
    outputs = []
    for i in range(sum(key.endswith('.norm1.weight') for key in w)):
        name, prompt = f'blocks.{i}', w.get(f'embeddings.{i}')
        if prompt is not None:
            x = torch.cat([prompt.expand(len(x), -1, -1), x], dim=1)
        y = layer_norm(w, f'{name}.norm1', x, 1e-6)
        qkv = (linear(w, f'{name}.attn.{part}_proj', y) for part in 'qkv')
        x = x + linear(w, f'{name}.attn.proj', attend(*qkv, options.num_heads))
        y = F.gelu(linear(w, f'{name}.fc1', layer_norm(w, f'{name}.norm2', x, 1e-6)))
        m = linear(w, f'{name}.fc2', y)
        adapted = adapter(w, f'{name}.adaptmlp', x if options.form == 'parallel' else m, options)
        x = x + m + adapted
        x = x if prompt is None else x[:, prompt.shape[1] :]
        outputs.append(x)
    if 'fc_norm.weight' in w:
        x = layer_norm(w, 'fc_norm', x[:, 1:].mean(dim=1), 1e-6)
        outputs.append(x)
    else:
        outputs.append(layer_norm(w, 'norm', x, 1e-6))
        x = outputs[-1][:, 0]
    return outputs, linear(w, 'head.1', batch_norm(w, 'head.0', x, 1e-6, training=False))


def adapter(w, name, z, options):
    """Compute ``s * up(ReLU(down(z)))``, with the norm where there is one."""
    norm = f'{name}.adapter_layer_norm_before'
    if options.norm == 'in':
        z = layer_norm(w, norm, z, 1e-5)
    z = linear(w, f'{name}.up_proj', F.relu(linear(w, f'{name}.down_proj', z)))
    z = w.get(f'{name}.scale', options.scale) * z
    return layer_norm(w, norm, z, 1e-5) if options.norm == 'out' else z


def adaptformer_shapes(
    width: int, depth: int, grid: tuple[int, int], patch: int, num_classes: int,
    adapter_dims: int, mlp_ratio: float = 4.0, norm: str = 'none', learned_scale: bool = False,
    global_pool: bool = False, num_prompt_tokens: int = 0, qkv_bias: bool = True,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Name -> shape of an official checkpoint."""
    timm = vit_shapes(width, depth, grid, patch, num_classes, int(width * mlp_ratio), qkv_bias)
    shapes = {}
    for key, shape in timm.items():
        name, _, leaf = key.rpartition('.')
        if name.endswith('.attn.qkv'):
            for part in 'qvk':
                third = (shape[0] // 3, *shape[1:])
                shapes[f'{name.removesuffix("qkv")}{part}_proj.{leaf}'] = third
        elif name in ('norm', 'head'):
            shapes[
                {'norm': 'fc_norm' if global_pool else 'norm', 'head': 'head.1'}[name] + f'.{leaf}'
            ] = shape
        else:
            shapes[key.replace('.mlp.', '.')] = shape
    linears = {'down_proj': (adapter_dims, width), 'up_proj': (width, adapter_dims)}
    if norm != 'none':
        linears['adapter_layer_norm_before'] = (width,)
    for i in range(depth):
        for part, shape in linears.items():
            shapes[f'blocks.{i}.adaptmlp.{part}.weight'] = shape
            shapes[f'blocks.{i}.adaptmlp.{part}.bias'] = shape[:1]
        if learned_scale:
            shapes[f'blocks.{i}.adaptmlp.scale'] = (1,)
        if num_prompt_tokens:
            shapes[f'embeddings.{i}'] = (1, num_prompt_tokens, width)
    statistics = {f'head.0.running_{part}': (width,) for part in ('mean', 'var')}
    return {**shapes, **statistics, 'head.0.num_batches_tracked': ()}


def is_trainable(name: str) -> bool:
    """Tell by the official rule whether a parameter is trained."""
    return 'adaptmlp' in name or name.startswith(('head.', 'fc_norm.', 'embeddings.'))


class LiteralAdaptFormer(OfficialModule):
    """`literal_adaptformer` as a module that holds (copies of) an official state dict."""

    def __init__(self, official: Mapping[str, Tensor], options: AdaptFormerOptions) -> None:
        super().__init__(official, is_trainable, is_buffer)
        self.options = options

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        return literal_adaptformer(self.weights(), image, self.options)
