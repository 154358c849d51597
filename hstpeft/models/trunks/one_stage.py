"""What trunks share whose blocks are one stage: ViT, Eva and HVT.

Shapes: B batch, L tokens, C trunk width.
"""

from types import MappingProxyType
from typing import Any

from timm.layers import RmsNorm, RmsNormFp32
from torch import Tensor, nn

from hstpeft.models.trunks.base import Trunk
from hstpeft.models.trunks.blocks import apply_norm
from hstpeft.models.trunks.widths import cut_layers

VIT_BIASES = MappingProxyType(
    {'qkv_bias': ('qkv',), 'proj_bias': ('proj', 'fc1', 'fc1_g', 'fc1_x', 'fc2')}
)
"""Options of timm's plain ViT for the biases of its blocks, with their Linears by role."""
_TOLD = (nn.LayerNorm, RmsNorm, RmsNormFp32)


class OneStageTrunk(Trunk):
    """A trunk around a ViT of timm, whose blocks have one width; each block is an output.

    Attributes:
        vit: timm's model.
        pools: Whether outputs are averaged by `pool`.
        attn_pools: Whether outputs are pooled by `attention_pool`.
        norms: Whether the output of the last block gets its `final_norm`.
    """

    vit: nn.Module
    pools: bool = True
    attn_pools: bool = True
    norms: bool = True

    @property
    def net(self) -> nn.Module:
        """timm's model."""
        return self.vit

    def stop_after(
        self, output: int, pools: bool, attn_pools: bool = False, norms: bool = True
    ) -> None:
        """Count no block behind block ``output``, and what pools only if it does."""
        self.num_layers, self.norms = output + 1, norms
        self.pools, self.attn_pools = pools, attn_pools
        self.stage_depths = (self.num_layers,)

    def idle_modules(self) -> list[nn.Module]:
        """Return the blocks, the final norm and what pools, as far as they do not run."""
        blocks, vit = list(self.vit.blocks[self.num_layers :]), self.vit
        idle = [*blocks, *([vit.norm] if blocks or not self.norms else [])]
        if not (self.pools or self.attn_pools):
            idle.append(vit.fc_norm)
        if vit.attn_pool is not None and not self.attn_pools:
            idle.append(vit.attn_pool)
        return idle

    def final_norm(self, tokens: Tensor) -> Tensor:
        """Apply the norm behind the last block to tokens (..., C)."""
        return apply_norm(self.vit.norm, tokens)

    def block_path(self, index: int) -> str:
        """Return the name of a block of timm's."""
        return f'blocks.{index}'

    def description(self) -> dict[str, Any]:
        """Return heads, activation and eps."""
        return self.block_form

    def declare_shape(self) -> None:
        """Declare what follows from timm's model, once it is built."""
        # Now, since a tuner may stand on the layers later.
        self.block_form = describe_blocks(self.vit, self.block(0))
        self.embed_dims = self.vit.embed_dim
        self.num_blocks = self.num_layers = len(self.vit.blocks)
        self.stage_depths, self.stage_dims = (self.num_layers,), (self.embed_dims,)
        self.patch_size = self.vit.patch_embed.patch_size
        self.grid_size = self.vit.patch_embed.grid_size
        self.output_dims = (self.embed_dims,) * self.num_layers
        self.output_strides = (self.patch_size,) * self.num_layers
        blocks = range(self.num_layers)
        if any(cut_layers(self, self.embed_dims, index) is None for index in blocks):
            self.capabilities = self.capabilities - {'whole_widths'}


def describe_blocks(net: nn.Module, block: nn.Module) -> dict[str, Any]:
    """Return what decides the function of a net of timm's blocks beside their tensors.

    Args:
        net: timm's model.
        block: One of its blocks, which are alike.
    """
    eps = block.norm1.eps
    form = {'num_heads': block.attn.num_heads, 'act': type(block.mlp.act).__name__, 'eps': eps}
    return {**form, 'norms': _untold_norms(net, eps)}


def _untold_norms(net: nn.Module, eps: float) -> list[tuple[str, float]]:
    """List kind and eps of the norms that their tensors and the blocks' eps do not tell; usually none.

    A LayerNorm has a bias and an RmsNorm has none; timm has other norms with the same tensors.
    """
    norms = [m for m in net.modules() if getattr(m, 'eps', None) is not None]
    return sorted(
        {('' if isinstance(m, _TOLD) else type(m).__name__, m.eps) for m in norms} - {('', eps)}
    )
