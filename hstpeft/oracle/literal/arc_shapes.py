"""Names and shapes of official ARC checkpoints, for cases that nobody computed before."""

from collections.abc import Sequence

POSITIONS = ('attention', 'mlp')


def arc_vit_shapes(
    width: int,
    depth: int,
    grid: tuple[int, int],
    patch: int,
    num_classes: int,
    adapter_dims: int,
    mlp_dims: int,
    positions: Sequence[str] = POSITIONS,
) -> dict[str, tuple[int, ...]]:
    """Name -> shape, in the names of ``ARC_ViT.py``."""
    shapes: dict[str, tuple[int, ...]] = {
        'embedding.cls': (1, 1, width),
        'embedding.position_embedding': (1, 1 + grid[0] * grid[1], width),
        'embedding.projective.weight': (width, 3, patch, patch),
        'embedding.projective.bias': (width,),
    }
    short = [{'attention': 'att', 'mlp': 'mlp'}[position] for position in positions]
    shapes.update({f'transformer.{p}_down_projection': (width, adapter_dims) for p in short})
    for i in range(depth):
        name = f'transformer.layer.{i}'
        for part in ('query', 'key', 'value', 'projective'):
            shapes.update(_linear(f'{name}.attention.{part}', width, width))
        shapes.update(_linear(f'{name}.mlp.fc1', width, mlp_dims))
        shapes.update(_linear(f'{name}.mlp.fc2', mlp_dims, width))
        shapes.update(_norm(f'{name}.att_layer_norm', width))
        shapes.update(_norm(f'{name}.fnn_layer_norm', width))
        for p in short:
            shapes[f'{name}.{p}_adapter.adapter_rescale'] = (1, adapter_dims)
            shapes[f'{name}.{p}_adapter.adapter_bias'] = (width,)
    shapes.update(_norm('transformer.layer_norm', width))
    return {**shapes, **_linear('head_mlp.head', width, num_classes)}


def arc_swin_shapes(
    width: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    grid: tuple[int, int],
    patch: int,
    window: int,
    num_classes: int,
    adapter_dims: int,
    mlp_ratio: float = 4.0,
    positions: Sequence[str] = POSITIONS,
) -> dict[str, tuple[int, ...]]:
    """Name -> shape, in the names of ``ARC_swin_b.py``, aliases left out."""
    shapes: dict[str, tuple[int, ...]] = {
        'patch_embed.proj.weight': (width, 3, patch, patch),
        'patch_embed.proj.bias': (width,),
        **_norm('patch_embed.norm', width),
    }
    short = [{'attention': 'attn', 'mlp': 'mlp'}[position] for position in positions]
    for s, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
        dims = width * 2**s
        side = min(window, *(n // 2**s for n in grid))
        shapes.update({f'layers.{s}.{p}_u': (dims, adapter_dims) for p in short})
        for j in range(depth):
            name = f'layers.{s}.blocks.{j}'
            for p in short:
                shapes[f'{name}.{p}_lambda'] = (1, adapter_dims)
                shapes[f'{name}.{p}_lambda_bias'] = (dims,)
            shapes.update(_norm(f'{name}.norm1', dims))
            shapes[f'{name}.attn.relative_position_bias_table'] = ((2 * side - 1) ** 2, heads)
            shapes.update(_linear(f'{name}.attn.qkv', dims, 3 * dims))
            shapes.update(_linear(f'{name}.attn.proj', dims, dims))
            shapes.update(_norm(f'{name}.norm2', dims))
            shapes.update(_linear(f'{name}.mlp.fc1', dims, int(dims * mlp_ratio)))
            shapes.update(_linear(f'{name}.mlp.fc2', int(dims * mlp_ratio), dims))
        if s + 1 < len(depths):
            shapes[f'layers.{s}.downsample.reduction.weight'] = (2 * dims, 4 * dims)
            shapes.update(_norm(f'layers.{s}.downsample.norm', 4 * dims))
    shapes.update(_norm('norm', dims))
    return {**shapes, **_linear('head', dims, num_classes)}


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f'{name}.weight': (outputs, inputs), f'{name}.bias': (outputs,)}


def _norm(name: str, dims: int) -> dict[str, tuple[int, ...]]:
    return {f'{name}.weight': (dims,), f'{name}.bias': (dims,)}
