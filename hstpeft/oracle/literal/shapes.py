"""Names and shapes of an official HST checkpoint, for cases that nobody computed before."""

from collections.abc import Sequence


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
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of parameters and buffers; meta tokens and norms for every trunk block."""
    shapes: dict[str, tuple[int, ...]] = {'cls_token': (1, 1, width)}
    if num_registers:
        shapes['reg_token'] = (1, num_registers, width)
    shapes['pos_embed'] = (1, 1 + num_registers + grid[0] * grid[1], width)

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes.update({f'{name}.weight': (outputs, inputs), f'{name}.bias': (outputs,)})

    def conv(name: str, inputs: int, outputs: int, size: int) -> None:
        shapes.update({f'{name}.weight': (outputs, inputs, size, size), f'{name}.bias': (outputs,)})

    def norm(name: str, dims: int) -> None:
        shapes.update({f'{name}.weight': (dims,), f'{name}.bias': (dims,)})

    def statistics(name: str, dims: int) -> None:
        shapes.update({f'{name}.running_mean': (dims,), f'{name}.running_var': (dims,)})
        shapes[f'{name}.num_batches_tracked'] = ()

    def mlp(name: str, dims: int) -> None:
        linear(f'{name}.fc1', dims, int(dims * mlp_ratio))
        linear(f'{name}.fc2', int(dims * mlp_ratio), dims)

    conv('patch_embed.proj', 3, width, patch)
    for i in range(depth):
        norm(f'blocks.{i}.norm1', width)
        linear(f'blocks.{i}.attn.qkv', width, 3 * width)
        linear(f'blocks.{i}.attn.proj', width, width)
        norm(f'blocks.{i}.norm2', width)
        mlp(f'blocks.{i}.mlp', width)
        shapes[f'm_embeddings.{i}'] = (1, num_meta, width)
    norm('norm', width)
    shapes['m_patch_embed1.conv.0.weight'] = (side_dims[0], 3, 3, 3)
    norm('m_patch_embed1.conv.1', side_dims[0])
    statistics('m_patch_embed1.conv.1', side_dims[0])
    conv('m_patch_embed1.conv.3', side_dims[0], side_dims[0], 2)
    owner = [s for s, blocks in enumerate(side_depths) for _ in range(blocks)]
    for i in range(max(depth, len(owner))):
        norm(f'm_proj_norm{i + 1}', side_dims[owner[i] if i < len(owner) else -1])
    for s, (dims, blocks) in enumerate(zip(side_dims, side_depths, strict=True), start=1):
        if s > 1:
            conv(f'm_patch_embed{s}.proj', side_dims[s - 2], dims, 3)
        norm(f'm_patch_embed{s}.norm', dims)
        linear(f'T_Bridge_{s}', width, dims)
        for j in range(blocks):
            for part in ('q', 'k', 'v', 'proj'):
                linear(f'm_block{s}.{j}.attn.{part}', dims, dims)
            norm(f'm_block{s}.{j}.norm1', dims)
            norm(f'm_block{s}.{j}.norm2', dims)
            mlp(f'm_block{s}.{j}.mlp', dims)
        norm(f'm_norm{s}', dims)
    statistics('fc_norm', side_dims[-1])
    linear('head', side_dims[-1], num_classes)
    return shapes
