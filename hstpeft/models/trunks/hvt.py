"""The trunk of Hierarchical Visual Transformers (https://arxiv.org/abs/2103.10619).

Shapes: B batch, N tokens, C width, H W pixels, h w grid.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.delta import RANDOM, fingerprint
from hstpeft.errors import UserError, nearest
from hstpeft.models.trunks.base import check_dtype
from hstpeft.models.trunks.blocks import run_blocks
from hstpeft.models.trunks.filling import fill
from hstpeft.models.trunks.frozen_linear import wrap_linears
from hstpeft.models.trunks.one_stage import VIT_BIASES, OneStageTrunk
from hstpeft.models.trunks.places import Places
from hstpeft.models.trunks.timm_models import check_options
from hstpeft.models.trunks.weights import read_weights
from hstpeft.registry import MODELS


class HVTSize(NamedTuple):
    """What tells the published models apart."""

    embed_dim: int
    num_heads: int
    pool_width: int | None


HVT_SIZES = {
    'hvt_ti_1': HVTSize(192, 3, 12),
    'scale_hvt_ti_4': HVTSize(384, 6, 3),
    'hvt_s_0': HVTSize(384, 6, None),
    'hvt_s_1': HVTSize(384, 6, 12),
    'hvt_s_2': HVTSize(384, 6, 6),
    'hvt_s_3': HVTSize(384, 6, 4),
    'hvt_s_4': HVTSize(384, 6, 3),
}
"""Published models; ``scale_hvt_ti_4`` and ``hvt_s_4`` are the same one."""
_UNDEFINED = {'reg_tokens', 'pos_embed', 'pre_norm', 'embed_norm_layer', 'patch_drop_rate'}
"""Options of timm's ViT for what an HVT does not have."""


@MODELS.register_module()
class HVTTrunk(OneStageTrunk):
    """A ViT without class token whose sequence is max-pooled after some blocks.

    After block i, if ``i % pool_width == 0`` (block 0 included), the tokens are pooled as a
    row-major 1-D sequence, and a position embedding of the new length is added. So its outputs
    are no maps, and images must have the size that the trunk was built for.

    Args:
        arch: One of `HVT_SIZES`.
        arch_options: ``embed_dim``, ``depth``, ``num_heads``, ``img_size``, ``patch_size``,
            ``mlp_ratio``, ``qkv_bias``, ``drop_path_rate``, and other options of timm's
            `VisionTransformer`.
        pool_width: Blocks between two poolings; None takes the arch's, 0 pools nowhere.
        pool_kernel_size: Tokens under the maximum.
        pool_stride: Tokens from one maximum to the next (2 in the official code, whatever its
            option says).
        weights: A ``.pth`` or ``.safetensors`` file with the official names, a dict of tensors,
            or None = random.
        dtype: ``float32`` or ``bfloat16``: what the frozen tensors are held in.

    Raises:
        UserError: Unknown ``arch``, a wrong option, a sequence shorter than the pool, weights
            that do not fit.
    """

    capabilities = frozenset({'one_stage', 'whole_image', 'whole_widths'})
    bias_options = VIT_BIASES
    num_prefix_tokens = 0
    out_types = ('avg_featmap', 'raw')
    out_type_note = (
        'an HVT pools its tokens as a 1-D sequence, so they are no map and cannot serve dense '
        'tasks; use a ViTTrunk or SwinTrunk there'
    )

    def __init__(
        self,
        arch: str = 'hvt_s_1',
        arch_options: Mapping[str, Any] | None = None,
        pool_width: int | None = None,
        pool_kernel_size: int = 3,
        pool_stride: int = 2,
        weights: str | Mapping[str, Tensor] | None = None,
        dtype: str = 'float32',
    ) -> None:
        super().__init__()
        if arch not in HVT_SIZES:
            raise UserError(f'trunk.arch {arch!r} is no HVT: {nearest(arch, HVT_SIZES)}')
        for name, value, least in (
            ('pool_width', pool_width or 0, 0),
            ('pool_kernel_size', pool_kernel_size, 1),
            ('pool_stride', pool_stride, 1),
        ):
            if value < least:
                raise UserError(f'trunk.{name} {value} must be at least {least}')
        self.frozen_dtype = check_dtype(dtype)
        size = HVT_SIZES[arch]
        self.vit = create_hvt(size, dict(arch_options or {}))
        self.declare_shape()
        self.pixel_multiple = (1, 1)
        self.mean, self.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # DeiT's recipe
        self.pool_kernel_size, self.pool_stride = pool_kernel_size, pool_stride
        self.sequence_lengths = self._add_pools(
            size.pool_width if pool_width is None else pool_width
        )
        wrap_linears(self.vit.blocks)
        self.identity = RANDOM
        if weights is not None:
            tensors = read_weights(weights, arch)
            fill(self.vit, tensors)
            self.identity = fingerprint(tensors)

    def embed(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Turn an image (B, 3, H, W) into tokens (B, N, C) and their grid (h, w)."""
        size, projection = self.vit.patch_embed.img_size, self.vit.patch_embed.proj
        if tuple(image.shape[-2:]) != size:
            raise UserError(
                f'an image of {image.shape[-2]} x {image.shape[-1]} pixels does not fit this HVT, '
                f'whose position embeddings are for {size[0]} x {size[1]}: resize it in the '
                'pipeline, or set trunk.arch_options img_size'
            )
        patches = projection(image.to(projection.weight.dtype)).flatten(2).transpose(1, 2)
        return self.vit.pos_drop(patches + self.vit.pos_embed), self.grid_size

    def run(
        self,
        tokens: Tensor,
        places: Places,
        tap_indices: Collection[int],
        grid: tuple[int, int] | None = None,
    ) -> dict[int, Tensor]:
        """Run the blocks up to the last tap, pooling at the end of some."""
        pools = {index: lambda x, i=index: self._pool(i, x) for index in self.pool_indices}
        return run_blocks(
            self.vit.blocks, tokens, places, tap_indices, pools=pools, with_cp=self.with_cp
        )

    def pool(self, tokens: Tensor) -> Tensor:
        """Average the tokens (B, N, C); returns (B, C)."""
        return tokens.mean(dim=1)

    def to_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """There is no map."""
        raise UserError(f"backbone.out_type 'featmap': {self.out_type_note}")

    def token_parameters(self) -> list[nn.Parameter]:
        """Return the position embeddings: of the patches, and after each pooling."""
        return [self.vit.pos_embed, *(self.vit.blocks[i].pos_embed for i in self.pool_indices)]

    def description(self) -> dict[str, Any]:
        """Return heads, activation, eps and the pooling."""
        pools = {}
        if self.pool_indices:
            pools = {'pool_kernel_size': self.pool_kernel_size, 'pool_stride': self.pool_stride}
        return {**super().description(), **pools}

    def _add_pools(self, pool_width: int) -> tuple[int, ...]:
        """Give each pooling block its position embedding; return the tokens after each block."""
        length, lengths, pooling = self.vit.patch_embed.num_patches, [], []
        for index, block in enumerate(self.vit.blocks):
            if pool_width and index % pool_width == 0:
                if length < self.pool_kernel_size:
                    raise UserError(
                        f'trunk.pool_kernel_size {self.pool_kernel_size} is more than the {length} '
                        f'tokens left at block {index}: use a larger img_size or pool_width'
                    )
                length = (length - self.pool_kernel_size) // self.pool_stride + 1
                position = torch.empty(1, length, self.embed_dims)
                nn.init.trunc_normal_(position, std=0.02)
                block.register_parameter('pos_embed', nn.Parameter(position))
                pooling.append(index)
            lengths.append(length)
        self.pool_indices = tuple(pooling)
        return tuple(lengths)

    def _pool(self, index: int, tokens: Tensor) -> Tensor:
        """Shorten tokens (B, N, C) and tell them where they are."""
        pooled = F.max_pool1d(tokens.transpose(1, 2), self.pool_kernel_size, self.pool_stride)
        return pooled.transpose(1, 2) + self.vit.blocks[index].pos_embed


def create_hvt(size: HVTSize, options: dict[str, Any]) -> VisionTransformer:
    """Build the ViT inside an HVT."""
    own = dict(
        class_token=False, global_pool='avg', fc_norm=False, num_classes=0, dynamic_img_size=True
    )
    clash = sorted((own.keys() | _UNDEFINED) & options.keys())
    if clash:
        raise UserError(f'trunk.arch_options {clash} cannot be set for an HVT')
    check_options(options, VisionTransformer)
    default = dict(embed_dim=size.embed_dim, num_heads=size.num_heads, depth=12)
    try:
        return VisionTransformer(**{**default, **options}, **own)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f'trunk.arch_options {options} do not suit an HVT: {error or type(error).__name__}'
        ) from error
