"""Mona on the Swin of detectors as its equations say it, by the official names of the weights.

Shapes: B batch, L = h * w tokens, C width, R adapter width, h w grid of a stage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from hstpeft.oracle.literal.arc import merge_patches
from hstpeft.oracle.literal.hst import layer_norm, linear
from hstpeft.oracle.literal.module import OfficialModule
from hstpeft.oracle.literal.swin import count_blocks, mix_in_windows, swin_shapes
from hstpeft.oracle.literal.vit import embed_patches, mlp

BACKBONE = 'backbone.'
KERNELS = {'conv1': 3, 'conv2': 5, 'conv3': 7}


@dataclass(frozen=True)
class MonaOptions:
    """What the weights do not tell.

    Attributes:
        window: Side of the windows.
    """

    window: int


def literal_mona(
    weights: Mapping[str, Tensor], image: Tensor, options: MonaOptions
) -> tuple[list[Tensor], Tensor]:
    """Return the output (B, L, C) of each stage, merged where it is, and the logits."""
    w = {key.removeprefix(BACKBONE): value for key, value in weights.items()}
    kernel = w['patch_embed.proj.weight']
    x, grid = embed_patches(w, pad(image.permute(0, 2, 3, 1), kernel.shape[-1]).permute(0, 3, 1, 2))
    x = layer_norm(w, 'patch_embed.norm', x, 1e-5)
    outputs = []
    for s, depth in enumerate(count_blocks(w)):
        for j in range(depth):
            name = f'layers.{s}.blocks.{j}'
            y = layer_norm(w, f'{name}.norm1', x, 1e-5)
            shift = options.window // 2 if j % 2 else 0
            x = x + window_attention(w, f'{name}.attn', y, grid, options.window, shift)
            x = mona(w, f'{name}.my_module_1', x, grid)
            x = x + mlp(w, f'{name}.mlp', layer_norm(w, f'{name}.norm2', x, 1e-5))
            x = mona(w, f'{name}.my_module_2', x, grid)
        if f'layers.{s}.downsample.norm.weight' in w:
            whole = pad(x.unflatten(1, grid), 2)
            x, grid = whole.flatten(1, 2), tuple(whole.shape[1:3])
            x, grid = merge_patches(w, f'layers.{s}.downsample', x, grid)
        outputs.append(x)
    x = layer_norm(w, f'norm{len(outputs) - 1}', x, 1e-5)
    return outputs, linear(w, 'head.fc', x.mean(dim=1))


def pad(x, multiple):
    """Pad a map (B, h, w, C) with zeros right and below, to multiples of a side."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % multiple, 0, -x.shape[1] % multiple))


def window_attention(w, name, x, grid, window, shift):
    """Let every token attend to its window; cells beyond the map are zeros that are read too."""
    whole = pad(x.unflatten(1, grid), window)
    qkv = linear(w, f'{name}.qkv', whole.flatten(1, 2)).chunk(3, dim=-1)
    table, sides = w[f'{name}.relative_position_bias_table'], tuple(whole.shape[1:3])
    mixed = mix_in_windows(*qkv, table, sides, window, shift)
    maps = linear(w, f'{name}.proj', mixed).unflatten(1, sides)
    return maps[:, : grid[0], : grid[1]].flatten(1, 2)


def mona(w, name, x, grid):
    """Adapt tokens (B, L, C)."""
    z = w[f'{name}.gamma'] * layer_norm(w, f'{name}.norm', x, 1e-5) + w[f'{name}.gammax'] * x
    z = linear(w, f'{name}.project1', z).transpose(1, 2).unflatten(2, grid)

    def conv(part, size, groups):
        weight, bias = (w[f'{name}.adapter_conv.{part}.{leaf}'] for leaf in ('weight', 'bias'))
        return F.conv2d(z, weight, bias, padding=size // 2, groups=groups)

    z = z + sum(conv(part, size, z.shape[1]) for part, size in KERNELS.items()) / 3
    z = z + conv('projector', 1, 1)
    return x + linear(w, f'{name}.project2', F.gelu(z.flatten(2).transpose(1, 2)))


def mona_shapes(
    width: int, depths: Sequence[int], num_heads: Sequence[int], patch: int, window: int,
    num_classes: int, adapter_dims: int = 64, mlp_ratio: float = 4.0, qkv_bias: bool = True,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Name -> shape of an official checkpoint."""
    # A table has the size of the window, however small the map: as on a large grid.
    grid = (window * 2 ** len(depths),) * 2
    swin = swin_shapes(
        width, depths, num_heads, grid, patch, window, num_classes, mlp_ratio, qkv_bias
    )
    shapes = {}
    for key, shape in swin.items():
        layer, _, leaf = key.rpartition('.')
        if layer == 'head':
            shapes[f'head.fc.{leaf}'] = shape
        elif layer == 'norm':
            shapes[f'{BACKBONE}norm{len(depths) - 1}.{leaf}'] = shape
        else:
            shapes[BACKBONE + key] = shape
        if key.endswith('.norm1.weight'):
            block = BACKBONE + key.removesuffix('.norm1.weight')
            shapes |= _adapter(f'{block}.my_module_1', shape[0], adapter_dims)
            shapes |= _adapter(f'{block}.my_module_2', shape[0], adapter_dims)
    return shapes


def _adapter(name, width, inner):
    convs = {f'adapter_conv.{part}': (inner, 1, k, k) for part, k in KERNELS.items()}
    layers = {
        'project1': (inner, width), 'project2': (width, inner), 'norm': (width,), **convs,
        'adapter_conv.projector': (inner, inner, 1, 1),
    }  # fmt: skip
    shapes = {f'{name}.{scale}': (width,) for scale in ('gamma', 'gammax')}
    for layer, shape in layers.items():
        shapes |= {f'{name}.{layer}.weight': shape, f'{name}.{layer}.bias': shape[:1]}
    return shapes


def is_trainable(name: str) -> bool:
    """Tell by the official rule whether a parameter is trained."""
    return 'my_module' in name or name.startswith('head.')


class LiteralMona(OfficialModule):
    """`literal_mona` as a module that holds (copies of) an official state dict."""

    def __init__(self, official: Mapping[str, Tensor], options: MonaOptions) -> None:
        super().__init__(official, is_trainable)
        self.options = options

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        return literal_mona(self.weights(), image, self.options)
