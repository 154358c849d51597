"""Names and shapes of an official HST checkpoint, for cases that nobody computed before."""

from collections.abc import Sequence

Shapes = dict[str, tuple[int, ...]]


def hst_shapes(
    width: int,
    depth: int,
    grid: tuple[int, int],
    patch: int,
    side_dims: Sequence[int],
    side_depths: Sequence[int],
    num_classes: int,
    num_meta: int = 1,
    mlp_ratio: float = 4.0,
    num_registers: int = 0,
) -> Shapes:
    """Name -> shape of parameters and buffers; meta tokens and norms for every trunk block."""
    shapes = _trunk(width, depth, grid, patch, mlp_ratio, num_registers)
    shapes.update({f'm_embeddings.{i}': (1, num_meta, width) for i in range(depth)})
    owner = [s for s, blocks in enumerate(side_depths) for _ in range(blocks)]
    for i in range(max(depth, len(owner))):
        dims = side_dims[owner[i] if i < len(owner) else -1]
        shapes.update(_norm(f'm_proj_norm{i + 1}', dims))
    shapes.update(_stem(side_dims[0]))
    for s, (dims, blocks) in enumerate(zip(side_dims, side_depths, strict=True), start=1):
        if s > 1:
            shapes.update(_conv(f'm_patch_embed{s}.proj', side_dims[s - 2], dims, 3))
        shapes.update(_norm(f'm_patch_embed{s}.norm', dims))
        shapes.update(_linear(f'T_Bridge_{s}', width, dims))
        for j in range(blocks):
            shapes.update(_side_block(f'm_block{s}.{j}', dims, mlp_ratio))
        shapes.update(_norm(f'm_norm{s}', dims))
    shapes.update(_statistics('fc_norm', side_dims[-1]))
    return {**shapes, **_linear('head', side_dims[-1], num_classes)}


def _trunk(
    width: int, depth: int, grid: tuple[int, int], patch: int, mlp_ratio: float, registers: int
) -> Shapes:
    """Name a ViT's tensors as timm does."""
    shapes: Shapes = {'cls_token': (1, 1, width)}
    if registers:
        shapes['reg_token'] = (1, registers, width)
    shapes['pos_embed'] = (1, 1 + registers + grid[0] * grid[1], width)
    shapes.update(_conv('patch_embed.proj', 3, width, patch))
    for i in range(depth):
        shapes.update(_norm(f'blocks.{i}.norm1', width))
        shapes.update(_linear(f'blocks.{i}.attn.qkv', width, 3 * width))
        shapes.update(_linear(f'blocks.{i}.attn.proj', width, width))
        shapes.update(_norm(f'blocks.{i}.norm2', width))
        shapes.update(_mlp(f'blocks.{i}.mlp', width, mlp_ratio))
    return {**shapes, **_norm('norm', width)}


def _stem(dims: int) -> Shapes:
    name = 'm_patch_embed1.conv'
    return {
        f'{name}.0.weight': (dims, 3, 3, 3),
        **_norm(f'{name}.1', dims),
        **_statistics(f'{name}.1', dims),
        **_conv(f'{name}.3', dims, dims, 2),
    }


def _side_block(name: str, dims: int, mlp_ratio: float) -> Shapes:
    shapes: Shapes = {}
    for part in ('q', 'k', 'v', 'proj'):
        shapes.update(_linear(f'{name}.attn.{part}', dims, dims))
    shapes.update(_norm(f'{name}.norm1', dims))
    shapes.update(_norm(f'{name}.norm2', dims))
    return {**shapes, **_mlp(f'{name}.mlp', dims, mlp_ratio)}


def _mlp(name: str, dims: int, ratio: float) -> Shapes:
    hidden = int(dims * ratio)
    return {**_linear(f'{name}.fc1', dims, hidden), **_linear(f'{name}.fc2', hidden, dims)}


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f'{name}.weight': (outputs, inputs), f'{name}.bias': (outputs,)}


def _conv(name: str, inputs: int, outputs: int, size: int) -> Shapes:
    return {f'{name}.weight': (outputs, inputs, size, size), f'{name}.bias': (outputs,)}


def _norm(name: str, dims: int) -> Shapes:
    return {f'{name}.weight': (dims,), f'{name}.bias': (dims,)}


def _statistics(name: str, dims: int) -> Shapes:
    return {
        f'{name}.running_mean': (dims,),
        f'{name}.running_var': (dims,),
        f'{name}.num_batches_tracked': (),
    }
