"""timm's ViT, in which some official checkpoints hold their trunk: what the literal forms share.

Shapes: B batch, N = h * w patches, C width, h w grid.
"""

import torch
from torch.nn import functional as F

from hstpeft.oracle.literal.hst import linear


def embed_patches(w, image):
    """Return the patches (B, N, C) of an image, and their grid."""
    kernel = w['patch_embed.proj.weight']
    x = F.conv2d(image, kernel, w['patch_embed.proj.bias'], stride=kernel.shape[-2:])
    return x.flatten(2).transpose(1, 2), tuple(x.shape[-2:])


def embed(w, image):
    """Return class token and patches (B, 1 + N, C) with their positions, and the grid."""
    x, grid = embed_patches(w, image)
    return torch.cat([w['cls_token'].expand(len(x), -1, -1), x], dim=1) + w['pos_embed'], grid


def mlp(w, name, x):
    """Apply the MLP of a block."""
    return linear(w, f'{name}.fc2', F.gelu(linear(w, f'{name}.fc1', x)))


def vit_shapes(
    width: int,
    depth: int,
    grid: tuple[int, int],
    patch: int,
    num_classes: int,
    mlp_dims: int,
    qkv_bias: bool = True,
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of trunk and head."""
    shapes: dict[str, tuple[int, ...]] = {
        'cls_token': (1, 1, width),
        'pos_embed': (1, 1 + grid[0] * grid[1], width),
        'patch_embed.proj.weight': (width, 3, patch, patch),
        'patch_embed.proj.bias': (width,),
    }
    parts = {
        'norm1': (width,), 'attn.qkv': (3 * width, width), 'attn.proj': (width, width),
        'norm2': (width,), 'mlp.fc1': (mlp_dims, width), 'mlp.fc2': (width, mlp_dims),
    }  # fmt: skip
    modules = {f'blocks.{i}.{part}': shape for i in range(depth) for part, shape in parts.items()}
    modules |= {'norm': (width,), 'head': (num_classes, width)}
    for name, shape in modules.items():
        shapes[f'{name}.weight'] = shape
        if qkv_bias or not name.endswith('.attn.qkv'):
            shapes[f'{name}.bias'] = shape[:1]
    return shapes
