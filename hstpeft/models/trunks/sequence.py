"""What the plain vision transformers of timm share: tokens are one sequence, and patches a grid of it.

Shapes: B batch, P prefix tokens, N = h * w patches, L tokens, C trunk width, H W pixels, h w grid.
"""

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.delta import RANDOM, fingerprint
from hstpeft.models.trunks import qkv_biases
from hstpeft.models.trunks.base import check_dtype
from hstpeft.models.trunks.blocks import Mixer, apply_norm, run_blocks
from hstpeft.models.trunks.filling import fill_vit
from hstpeft.models.trunks.frozen_linear import wrap_linears
from hstpeft.models.trunks.one_stage import OneStageTrunk
from hstpeft.models.trunks.places import Places
from hstpeft.models.trunks.positions import PositionCache
from hstpeft.models.trunks.timm_models import mean_std
from hstpeft.models.trunks.weights import read_weights
from hstpeft.models.trunks.windows import mix_in_windows, windowed_blocks


class SequenceTrunk(OneStageTrunk):
    """A trunk around a ViT of timm whose tokens are [class token, registers, patches].

    Args:
        vit: timm's model, without weights; with its attention pooling only if that is wanted.
        arch: Its name.
        weights: See `ViTTrunk`, as for all that follows.
        dtype: ``float32`` or ``bfloat16``.
        mlp_drop_rate: Dropout inside the MLPs.
        window_size: Patches a side of a window.
        global_attn_indices: Blocks without windows.
    """

    capabilities = frozenset(
        {'front_tokens', 'token_sequence', 'one_stage', 'whole_image', 'maps', 'whole_widths'}
    )

    def __init__(
        self,
        vit: nn.Module,
        arch: str,
        weights: str | Mapping[str, Tensor] | None,
        dtype: str,
        mlp_drop_rate: float,
        window_size: int,
        global_attn_indices: Sequence[int],
    ) -> None:
        super().__init__()
        self.frozen_dtype = check_dtype(dtype)
        self.vit = vit
        qkv_biases.join_biases(vit.blocks)
        self.had_qkv_bias = qkv_biases.has_bias(vit.blocks)
        wrap_linears(vit.blocks)
        for block in vit.blocks:
            block.mlp.drop1.p = block.mlp.drop2.p = max(mlp_drop_rate, block.mlp.drop1.p)
        self.declare_shape()
        self._declare_tokens()
        self.window_size, self.global_attn_indices = window_size, tuple(global_attn_indices)
        self.windowed_indices = windowed_blocks(window_size, global_attn_indices, self.num_layers)
        if self.windowed_indices:
            self.form = f', windows of {window_size} but in {self.global_attn_indices}'
            self.capabilities = self.capabilities - {'whole_image'}
        self.mean, self.std = mean_std(arch, weights)
        self.identity = RANDOM
        if weights is not None:
            kept = () if vit.attn_pool is None else ('attn_pool',)
            tensors = read_weights(weights, arch, kept)
            self.grid_size = fill_vit(vit, tensors)
            self.identity = fingerprint(tensors)
        self._positions = PositionCache()

    def embed(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Turn an image (B, 3, H, W) into tokens (B, P + N, C) and their grid (h, w)."""
        projection = self.vit.patch_embed.proj
        patches = projection(image.to(projection.weight.dtype))
        grid = tuple(patches.shape[-2:])
        patches = apply_norm(self.vit.patch_embed.norm, patches.flatten(2).transpose(1, 2))
        prefix = [
            token.to(patches.dtype).expand(len(patches), -1, -1)
            for token in (self.vit.cls_token, self.vit.reg_token)
            if token is not None
        ]
        return self.add_position(torch.cat([*prefix, patches], dim=1), grid), grid

    def add_position(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Add the position embedding for a grid to tokens (B, P + N, C), as at the entry."""
        if self.vit.pos_embed is not None:
            position = self._position(grid).to(tokens.dtype)
            if self.vit.no_embed_class:
                position = F.pad(position, (0, 0, self.num_prefix_tokens, 0))
            tokens = tokens + position
        return apply_norm(self.vit.norm_pre, self.vit.pos_drop(tokens))

    def run(
        self,
        tokens: Tensor,
        places: Places,
        tap_indices: Collection[int],
        grid: tuple[int, int] | None = None,
    ) -> dict[int, Tensor]:
        """Run the blocks up to the last tap."""
        mixers = self.mixers(grid, places.num_front_tokens + self.num_prefix_tokens)
        blocks, with_cp = self.vit.blocks, self.with_cp
        return run_blocks(blocks, tokens, places, tap_indices, mixers, with_cp=with_cp)

    def mixers(self, grid: tuple[int, int] | None, first_patch: int) -> dict[int, Mixer]:
        """Return, by block, what mixes in another way than `mix`: in windows.

        Args:
            grid: (h, w).
            first_patch: Place of the first patch among the tokens.
        """
        windowed = functools.partial(
            mix_in_windows, grid=grid, first_patch=first_patch, window_size=self.window_size
        )
        assert grid or not self.windowed_indices, 'windows need the grid'
        return dict.fromkeys(self.windowed_indices, windowed)

    def pool(self, tokens: Tensor) -> Tensor:
        """Average all tokens but the prefix; a ViT pre-trained that way has its norm here (fc_norm)."""
        return apply_norm(self.vit.fc_norm, tokens[:, self.num_prefix_tokens :].mean(dim=1))

    def attention_pool(self, tokens: Tensor) -> Tensor:
        """Let the pre-trained query read the tokens that timm's does and a tuner's; apply fc_norm."""
        held = next(self.vit.attn_pool.parameters(), tokens)
        pooled = self.vit.pool(tokens.to(held.dtype)).to(tokens.dtype)
        return apply_norm(self.vit.fc_norm, pooled)

    def to_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Arrange the patches of tokens (B, L, C) as a map (B, C, h, w)."""
        start = self.num_prefix_tokens
        patches = tokens[:, start : start + grid[0] * grid[1]]
        return patches.transpose(1, 2).unflatten(2, grid)

    def token_parameters(self) -> list[nn.Parameter]:
        """Return class token, register tokens and position embedding."""
        tokens = (self.vit.cls_token, self.vit.reg_token, self.vit.pos_embed)
        return [token for token in tokens if token is not None]

    def description(self) -> dict[str, Any]:
        """Return heads, activation, eps, norms, windows, pooling, and a grid that is no square."""
        added = {}
        if self.windowed_indices:
            added = {'window_size': self.window_size, 'global': self.global_attn_indices}
        if self.vit.attn_pool is not None:
            # An Eva's reads all tokens.
            reads_prefix = getattr(self.vit, 'pool_include_prefix', False)
            added |= {'attn_pool': self.vit.attn_pool.num_heads, 'pool_prefix': reads_prefix}
        if self.vit.pos_embed is not None and self.grid_size[0] != self.grid_size[1]:
            added['grid'] = self.grid_size
        return {**super().description(), **added}

    def give_bias(self, index: int | None, name: str) -> None:
        """Give a layer without bias one of zeros; for queries, keys and values every family has it."""
        if name not in qkv_biases.ROLES:
            return super().give_bias(index, name)
        linear = self.layer(index, name)
        zeros = linear.weight.new_zeros(linear.out_features)
        linear.bias = nn.Parameter(zeros, requires_grad=False)

    def timm_tensors(self) -> dict[str, Tensor]:
        """Return the parameters by the names that timm's files have."""
        return qkv_biases.split_biases(self.vit.blocks, super().timm_tensors())

    def timm_options(self) -> dict[str, Any]:
        """Return the options for added biases, a pooling left out, and the weights' image size."""
        options = super().timm_options()
        options |= qkv_biases.bias_options(self.vit.blocks, self.had_qkv_bias)
        if self.grid_size != self.vit.patch_embed.grid_size:
            sides = zip(self.grid_size, self.patch_size, strict=True)
            options['img_size'] = tuple(cells * pixels for cells, pixels in sides)
        if self.vit.attn_pool is None and self.vit.global_pool == 'map':
            options['global_pool'] = ''
        return options

    def _declare_tokens(self) -> None:
        """Declare the prefix tokens, and the outputs that exist."""
        self.pixel_multiple = self.patch_size
        self.num_prefix_tokens = self.vit.num_prefix_tokens
        self.out_types = ('cls_token', 'avg_featmap', 'featmap', 'raw')
        if self.cls_token is None:
            self.out_types = self.out_types[1:]
            self.out_type_note = 'this trunk has no class token'
        if self.vit.attn_pool is not None:
            self.out_types = ('attn_pool', *self.out_types)

    def _position(self, grid: tuple[int, int]) -> Tensor:
        """Return the position embedding for a grid, (1, [P +] h * w, C)."""
        own = self.vit.pos_embed
        if grid == self.grid_size:
            return own
        num_prefix = 0 if self.vit.no_embed_class else self.num_prefix_tokens
        position = None if own.requires_grad else self._positions.get(own, grid)
        if position is None:
            position = resample_abs_pos_embed(own, grid, self.grid_size, num_prefix)
            if not own.requires_grad:
                self._positions.put(own, grid, position)
        return position
