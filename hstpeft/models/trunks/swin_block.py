"""One block of a Swin, and how it attends in windows.

Shapes: B batch, C width of a stage, h w grid of a stage. Tokens are (B, h, w, C).
"""

from collections.abc import Callable

from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor
from torch.nn import functional as F

from hstpeft.compat import window_attention
from hstpeft.models.trunks.blocks import apply_norm
from hstpeft.models.trunks.places import Places


def attend_in_windows(block: SwinTransformerBlock, normed: Tensor) -> Tensor:
    """Attend in the windows of a block, as timm does: (B, h, w, C) in and out."""
    return window_attention(block, normed)


def attend_in_padded_map(block: SwinTransformerBlock, normed: Tensor) -> Tensor:
    """Attend in windows of a map that is padded before it is shifted: (B, h, w, C) in and out."""
    height, width = normed.shape[1:3]
    below, right = (-side % w for side, w in zip((height, width), block.window_size, strict=True))
    whole = F.pad(normed, (0, 0, 0, right, 0, below))
    return window_attention(block, whole)[:, :height, :width]


def run_swin_block(
    block: SwinTransformerBlock,
    index: int,
    tokens: Tensor,
    places: Places,
    attention: Callable[[SwinTransformerBlock, Tensor], Tensor] = attend_in_windows,
) -> Tensor:
    """Run one block, a tuner acting at its places.

    Args:
        block: timm's block.
        index: Its number in the whole trunk.
        tokens: (B, h, w, C), or what else ``attention`` reads.
        places: Acts at the places of the block.
        attention: From the normalised tokens to what the attention gives.
    """
    tokens = places.before_block(index, tokens)
    normed = places.before_attention(index, apply_norm(block.norm1, tokens))
    branch = block.drop_path1(attention(block, normed))
    branch = places.after_attention(index, branch, normed)
    tokens = places.beside_attention(index, tokens) + branch
    tokens = places.before_mlp_norm(index, tokens)
    normed = places.before_mlp(index, apply_norm(block.norm2, tokens))
    branch = places.after_mlp(index, block.drop_path2(block.mlp(normed)), normed)
    tokens = places.beside_mlp(index, tokens) + branch
    return places.after_block(index, tokens)
