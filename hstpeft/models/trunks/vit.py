"""The trunk family of timm's plain vision transformers.

Shapes: B batch, P prefix tokens, N = h * w patches, C trunk width, H W pixels, h w grid.
"""

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.compat import version
from hstpeft.delta import RANDOM, fingerprint
from hstpeft.errors import UserError
from hstpeft.models.trunks.base import BlockPlaces, Trunk, check_dtype
from hstpeft.models.trunks.blocks import apply_norm, run_blocks
from hstpeft.models.trunks.frozen_linear import wrap_linears
from hstpeft.models.trunks.timm_models import check_arch, create_model, mean_std
from hstpeft.models.trunks.weights import fill_vit, read_weights
from hstpeft.models.trunks.windows import mix_in_windows
from hstpeft.registry import MODELS


@MODELS.register_module()
class ViTTrunk(Trunk):
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
        self.vit = create_vit(arch, dict(arch_options or {}))
        wrap_linears(self.vit.blocks)
        for block in self.vit.blocks:
            block.mlp.drop1.p = block.mlp.drop2.p = max(mlp_drop_rate, block.mlp.drop1.p)
        self.embed_dims = self.vit.embed_dim
        self.num_layers = len(self.vit.blocks)
        self.stage_depths, self.stage_dims = (self.num_layers,), (self.embed_dims,)
        self.patch_size = self.pixel_multiple = self.vit.patch_embed.patch_size
        self.output_dims = (self.embed_dims,) * self.num_layers
        self.output_strides = (self.patch_size,) * self.num_layers
        self.num_prefix_tokens = self.vit.num_prefix_tokens
        self.out_types = ('cls_token', 'avg_featmap', 'featmap', 'raw')
        if self.num_prefix_tokens == 0:
            self.out_types = self.out_types[1:]
            self.out_type_note = 'this trunk has no class token'
        self.window_size = window_size
        self.windowed_indices = _windowed(window_size, global_attn_indices, self.num_layers)
        if self.windowed_indices:
            self.form = f', windows of {window_size} but in {tuple(global_attn_indices)}'
        self.mean, self.std = mean_std(arch, weights)
        self.grid_size = self.vit.patch_embed.grid_size
        self.identity = RANDOM
        if weights is not None:
            tensors = read_weights(weights, arch)
            self.grid_size = fill_vit(self.vit, tensors)
            self.identity = fingerprint(tensors)
        self._positions = PositionCache()

    @property
    def net(self) -> nn.Module:
        """timm's model."""
        return self.vit

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
        places: BlockPlaces,
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

    def stop_after(self, output: int) -> None:
        """Count no block behind block ``output``."""
        self.num_layers = output + 1
        self.stage_depths = (self.num_layers,)

    def idle_modules(self) -> list[nn.Module]:
        """Return the blocks that do not run, and then the final norm."""
        blocks = list(self.vit.blocks[self.num_layers :])
        return [*blocks, self.vit.norm] if blocks else []

    def final_norm(self, tokens: Tensor) -> Tensor:
        """Apply the norm after the last block to tokens (..., C)."""
        return apply_norm(self.vit.norm, tokens)

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

    def block(self, index: int) -> nn.Module:
        """Return a block of timm's."""
        return self.vit.blocks[index]

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


class PositionCache:
    """A frozen position embedding, resampled to the grids met last.

    Multi-scale training meets hundreds of grids, so only some are kept. A copy of a cache is
    empty: it would not notice that the copied embedding changes.
    """

    max_grids = 16

    def __init__(self) -> None:
        self._source: tuple | None = None
        self._by_grid: dict[tuple[int, int], Tensor] = {}

    def __reduce__(self) -> tuple:
        """Copy and pickle as a new cache."""
        return type(self), ()

    def get(self, own: Tensor, grid: tuple[int, int]) -> Tensor | None:
        """Return what was put in for a grid, if ``own`` is still what it was made from."""
        if not self._is_of(own):
            self._by_grid.clear()
        position = self._by_grid.pop(grid, None)
        if position is not None:
            self._by_grid[grid] = position  # now the last met
        return position

    def put(self, own: Tensor, grid: tuple[int, int], position: Tensor) -> None:
        """Keep a position embedding, and forget the one whose grid was met longest ago."""
        self._source = (own, *_state(own))
        self._by_grid[grid] = position
        if len(self._by_grid) > self.max_grids:
            del self._by_grid[next(iter(self._by_grid))]

    def _is_of(self, own: Tensor) -> bool:
        return bool(self._source) and self._source[0] is own and self._source[1:] == _state(own)


def _state(tensor: Tensor) -> tuple:
    """Tell whether a tensor changed; the version counts changes in place."""
    return tensor.device, tensor.dtype, version(tensor)


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


def create_vit(arch: str, options: dict[str, Any]) -> VisionTransformer:
    """Build a timm ViT without weights and refuse by name what the block loop cannot drive.

    Raises:
        UserError: ``arch`` is unknown or of another family, or an option is not one of its.
    """
    check_arch(arch, options, _plain_vits(), VisionTransformer)
    vit = create_model(arch, options) if arch in _plain_vits() else None
    reason = 'it is no plain ViT' if vit is None else _unsupported(vit)
    if reason:
        raise UserError(
            f'trunk.arch {arch!r} is not supported ({reason}): use a plain ViT of timm such as '
            'vit_base_patch16_224, deit_small_patch16_224 or vit_base_patch14_dinov2'
        )
    return vit


def _plain_vits() -> list[str]:
    """Names of timm's models that come from the file of the plain ViTs, and DeiT's."""
    return [*timm.list_models(module='vision_transformer'), *timm.list_models(module='deit')]


def _unsupported(vit: nn.Module) -> str:
    """Say what the block loop does not know about this model; empty if it knows all."""
    if type(vit) is not VisionTransformer:
        return f'it is a {type(vit).__name__}'
    blocks = {type(block).__name__ for block in vit.blocks if type(block) is not Block}
    if blocks:
        return f'its blocks are {", ".join(blocks)}'
    if type(vit.patch_embed) is not PatchEmbed:
        return f'its patch embedding is {type(vit.patch_embed).__name__}'
    if vit.blocks[0].attn.gate is not None:
        return 'its attention is gated'
    if vit.pos_embed is None:
        return 'it has no absolute position embedding'
    if vit.attn_pool is not None or not isinstance(vit.patch_drop, nn.Identity):
        return 'it has attention pooling or patch dropout'
    return ''
