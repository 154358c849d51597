"""The side network: four stages at strides 4, 8, 16, 32 that read the trunk's blocks.

Shapes: B batch, M meta tokens, P prefix tokens, N = h * w patches, C trunk width, D side width of
a stage, H W cells of a stage's map.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hstpeft.models.recompute import recomputed
from hstpeft.models.side.block import SideBlock
from hstpeft.models.side.bridge import Bridge
from hstpeft.models.side.stem import Downsample, Stem, init_convolution


class SideStage(nn.Module):
    """One resolution: embed the map from before, then a side block for each tapped trunk block.

    Args:
        embed: `Stem` or `Downsample`.
        trunk_dims: C.
        dims: D.
        num_heads: Heads of the cross-attention.
        drop_path_rates: One rate per side block.
        mlp_ratio: Hidden width of the MLPs over D.
        qkv_bias: Whether query, key and value of the cross-attention have a bias.
        with_cp: Whether the backward pass runs bridge and block again.
    """

    def __init__(
        self,
        embed: nn.Module,
        trunk_dims: int,
        dims: int,
        num_heads: int,
        drop_path_rates: Sequence[float],
        mlp_ratio: float,
        qkv_bias: bool,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.embed = embed
        self.bridge = Bridge(trunk_dims, dims)
        self.meta_norms = nn.ModuleList(nn.LayerNorm(dims) for _ in drop_path_rates)
        self.blocks = nn.ModuleList(
            SideBlock(dims, num_heads, mlp_ratio, rate, qkv_bias, with_cp)
            for rate in drop_path_rates
        )
        self.with_cp = with_cp
        self.norm = nn.LayerNorm(dims, eps=1e-6)

    def forward(
        self,
        x: Tensor,
        taps: Sequence[Tensor],
        grid: tuple[int, int],
        num_meta: int,
        num_prefix: int,
    ) -> Tensor:
        """Map from before (B, _, _, _) and one tap (B, M + P + N, C) per block -> (B, D, H, W)."""
        x, size = self.embed(x)

        def inject(x: Tensor, tap: Tensor, meta_norm: nn.Module, block: nn.Module) -> Tensor:
            meta, patches = self.bridge(tap, grid, size, num_meta, num_prefix)
            return block(x, meta_norm(meta), patches)

        for arguments in zip(taps, self.meta_norms, self.blocks, strict=True):
            x = recomputed(inject, x, *arguments, when=self.with_cp)
        return self.norm(x).transpose(1, 2).unflatten(2, size)


class SideNetwork(nn.Module):
    """Four maps from an image and the outputs of trunk blocks (the paper's HSN).

    Args:
        trunk_dims: C.
        dims: D of each stage.
        heads: Heads of each stage's cross-attention.
        depths: Side blocks of each stage.
        drop_path_rate: Drop path of the last side block, growing linearly from 0 over all.
        mlp_ratio: Hidden width of the MLPs over D.
        qkv_bias: Whether query, key and value of the cross-attention have a bias.
        stem_norm: One of `STEM_NORMS`.
        with_cp: Whether the backward pass runs the side blocks again, see `TunedBackbone`.
    """

    def __init__(
        self,
        trunk_dims: int,
        dims: Sequence[int],
        heads: Sequence[int],
        depths: Sequence[int],
        drop_path_rate: float = 0.0,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        stem_norm: str = 'BN',
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        rates = torch.linspace(0, drop_path_rate, sum(depths), device='cpu').tolist()
        embeds = [Stem(dims[0], stem_norm), *map(Downsample, dims[:-1], dims[1:])]
        self.stages = nn.ModuleList()
        for embed, dim, num_heads, depth in zip(embeds, dims, heads, depths, strict=True):
            own, rates = rates[:depth], rates[depth:]
            self.stages.append(
                SideStage(embed, trunk_dims, dim, num_heads, own, mlp_ratio, qkv_bias, with_cp)
            )
        self.apply(_init)

    def forward(
        self,
        image: Tensor,
        taps: Sequence[Tensor],
        grid: tuple[int, int],
        num_meta: int,
        num_prefix: int,
    ) -> list[Tensor]:
        """Make the maps.

        Args:
            image: (B, 3, pixels, pixels), sides multiples of 4.
            taps: Outputs (B, M + P + N, C) of trunk blocks, one per side block.
            grid: (h, w) of the trunk.
            num_meta: M.
            num_prefix: P.

        Returns:
            Four maps (B, D, H, W), from high to low resolution.
        """
        # Channels last keeps the way between maps and tokens free of copies.
        x = image.to(self.stages[0].norm.weight.dtype, memory_format=torch.channels_last)
        maps, start = [], 0
        for stage in self.stages:
            own = taps[start : start + len(stage.blocks)]
            start += len(own)
            x = stage(x, own, grid, num_meta, num_prefix)
            maps.append(x)
        return maps


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        init_convolution(module)
