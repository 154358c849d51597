"""The trunk family of timm's plain vision transformers.

Shapes: B batch, P prefix tokens, N = h * w patches, C trunk width, H W pixels, h w grid.
"""

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.delta import RANDOM, fingerprint
from hstpeft.errors import UserError
from hstpeft.models.trunks.base import check_dtype
from hstpeft.models.trunks.blocks import apply_norm, run_blocks
from hstpeft.models.trunks.filling import fill_vit
from hstpeft.models.trunks.frozen_linear import wrap_linears
from hstpeft.models.trunks.one_stage import VIT_BIASES, OneStageTrunk
from hstpeft.models.trunks.places import Places
from hstpeft.models.trunks.positions import PositionCache
from hstpeft.models.trunks.timm_models import create_vit, mean_std
from hstpeft.models.trunks.weights import read_weights
from hstpeft.models.trunks.windows import mix_in_windows
from hstpeft.registry import MODELS


@MODELS.register_module()
class ViTTrunk(OneStageTrunk):
    """A plain ViT of timm: pre-norm blocks, learned absolute position embedding.

    Images may have any size that is a multiple of the patch: the position embedding is resampled
    to the grid (bicubic, antialiased, as timm does) and kept per grid while it is frozen.

    Args:
        arch: Name of a timm model, e.g. ``vit_base_patch16_224``.
        arch_options: Passed to ``timm.create_model``: ``embed_dim``, ``depth``, ``num_heads``,
            ``img_size``, ``patch_size``, ``drop_path_rate``, ...
        weights: A ``.npz`` (Google JAX), ``.pth`` (MAE, DeiT, timm) or ``.safetensors`` file, a
            timm tag to download (``augreg_in21k``), a dict of tensors, or None = random.
        dtype: ``float32`` or ``bfloat16``: what the frozen tensors are held in. What a tuner
            trains stays float32.
        mlp_drop_rate: Dropout inside the MLPs alone (``proj_drop_rate`` of ``arch_options`` drops
            after the attention too).
        window_size: Patches a side of a window, for large images; 0 = every patch reads the whole
            image. In a window a patch reads the patches of its window and all tokens that are no
            patches, which themselves read everything (https://arxiv.org/abs/2203.16527).
        global_attn_indices: Blocks that have no windows, e.g. ``(2, 5, 8, 11)`` of 12.

    Raises:
        UserError: Unknown or unsupported ``arch``, a wrong option, weights that do not fit.
    """

    bias_options = VIT_BIASES
    capabilities = frozenset(
        {'front_tokens', 'token_sequence', 'one_stage', 'whole_image', 'block_parts', 'maps'}
    )

    def __init__(
        self,
        arch: str,
        arch_options: Mapping[str, Any] | None = None,
        weights: str | Mapping[str, Tensor] | None = None,
        dtype: str = 'float32',
        mlp_drop_rate: float = 0.0,
        window_size: int = 0,
        global_attn_indices: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.frozen_dtype = check_dtype(dtype)
        self.arch, self.arch_options = arch, dict(arch_options or {})
        self.vit = create_vit(arch, self.arch_options)
        wrap_linears(self.vit.blocks)
        for block in self.vit.blocks:
            block.mlp.drop1.p = block.mlp.drop2.p = max(mlp_drop_rate, block.mlp.drop1.p)
        self.declare_shape()
        self.pixel_multiple = self.patch_size
        self.num_prefix_tokens = self.vit.num_prefix_tokens
        self.out_types = ('cls_token', 'avg_featmap', 'featmap', 'raw')
        if self.num_prefix_tokens == 0:
            self.out_types = self.out_types[1:]
            self.out_type_note = 'this trunk has no class token'
        self.window_size, self.global_attn_indices = window_size, tuple(global_attn_indices)
        self.windowed_indices = _windowed(window_size, global_attn_indices, self.num_layers)
        if self.windowed_indices:
            self.form = f', windows of {window_size} but in {self.global_attn_indices}'
            self.capabilities = self.capabilities - {'whole_image'}
        self.mean, self.std = mean_std(arch, weights)
        self.identity = RANDOM
        if weights is not None:
            tensors = read_weights(weights, arch)
            self.grid_size = fill_vit(self.vit, tensors)
            self.identity = fingerprint(tensors)
        self._positions = PositionCache()

    def embed(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Turn an image (B, 3, H, W) into tokens (B, P + N, C) and their grid (h, w)."""
        projection = self.vit.patch_embed.proj
        patches = projection(image.to(projection.weight.dtype))
        grid = tuple(patches.shape[-2:])
        patches = self.vit.patch_embed.norm(patches.flatten(2).transpose(1, 2))
        prefix = [
            token.to(patches.dtype).expand(len(patches), -1, -1)
            for token in (self.vit.cls_token, self.vit.reg_token)
            if token is not None
        ]
        return self.add_position(torch.cat([*prefix, patches], dim=1), grid), grid

    def add_position(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Add the position embedding for a grid to tokens (B, P + N, C), as at the entry."""
        position = self._position(grid).to(tokens.dtype)
        if self.vit.no_embed_class:
            position = F.pad(position, (0, 0, self.num_prefix_tokens, 0))
        return self.vit.norm_pre(self.vit.pos_drop(tokens + position))

    def run(
        self,
        tokens: Tensor,
        places: Places,
        tap_indices: Collection[int],
        grid: tuple[int, int] | None = None,
    ) -> dict[int, Tensor]:
        """Run the blocks up to the last tap."""
        windowed = functools.partial(
            mix_in_windows,
            grid=grid,
            first_patch=places.num_front_tokens + self.num_prefix_tokens,
            window_size=self.window_size,
        )
        mixers = dict.fromkeys(self.windowed_indices, windowed)
        assert grid or not mixers, 'windows need the grid'
        blocks, with_cp = self.vit.blocks, self.with_cp
        return run_blocks(blocks, tokens, places, tap_indices, mixers, with_cp=with_cp)

    def pool(self, tokens: Tensor) -> Tensor:
        """Average all tokens but the prefix; a ViT pre-trained that way has its norm here (fc_norm)."""
        return apply_norm(self.vit.fc_norm, tokens[:, self.num_prefix_tokens :].mean(dim=1))

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
        """Return heads, activation, eps and windows."""
        windows = {}
        if self.windowed_indices:
            windows = {'window_size': self.window_size, 'global': self.global_attn_indices}
        return {**super().description(), **windows}

    def timm_options(self) -> dict[str, Any]:
        """Return the options for biases that were given, and for the weights' image size."""
        options = super().timm_options()
        if self.grid_size != self.vit.patch_embed.grid_size:
            sides = zip(self.grid_size, self.patch_size, strict=True)
            options['img_size'] = tuple(cells * pixels for cells, pixels in sides)
        return options

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


def _windowed(window_size: int, global_attn_indices: Sequence[int], depth: int) -> tuple[int, ...]:
    """Return the blocks that have windows."""
    if window_size < 0:
        raise UserError(f'trunk.window_size {window_size} must be 0 (no windows) or more')
    given = tuple(global_attn_indices)
    if given and not window_size:
        raise UserError(
            f'trunk.global_attn_indices {given} have no effect: every block is global unless '
            'trunk.window_size (e.g. 14) is given'
        )
    if given and not 0 <= min(given) <= max(given) < depth:
        raise UserError(
            f'trunk.global_attn_indices {given} are out of range: the trunk has {depth} blocks, '
            f'0 to {depth - 1}'
        )
    return tuple(i for i in range(depth) if i not in given) if window_size else ()
