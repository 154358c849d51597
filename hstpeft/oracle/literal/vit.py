"""Names and shapes of timm's ViT, in which some official checkpoints hold their trunk."""


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
