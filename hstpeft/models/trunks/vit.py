"""The trunk family of timm's plain vision transformers.

Shapes: B batch, P prefix tokens, N = h * w patches, C trunk width, H W pixels, h w grid.
"""

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from hstpeft.delta import RANDOM, fingerprint
from hstpeft.errors import UserError, nearest
from hstpeft.models.trunks.base import BlockPlaces, Trunk
from hstpeft.models.trunks.frozen_linear import wrap_linears
from hstpeft.models.trunks.weights import fill, read_weights
from hstpeft.registry import MODELS

_OWNED_OPTIONS = ('pretrained', 'num_classes', 'dynamic_img_size', 'dynamic_img_pad', 'block_fn')
_DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}


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

    Raises:
        UserError: Unknown or unsupported ``arch``, a wrong option, weights that do not fit.
    """

    def __init__(
        self,
        arch: str,
        arch_options: Mapping[str, Any] | None = None,
        weights: str | Mapping[str, Tensor] | None = None,
        dtype: str = 'float32',
    ) -> None:
        super().__init__()
        if dtype not in _DTYPES:
            raise UserError(f'trunk.dtype {dtype!r} is not supported: use one of {list(_DTYPES)}')
        self.vit = create_vit(arch, dict(arch_options or {}))
        wrap_linears(self.vit.blocks)
        self.embed_dims = self.vit.embed_dim
        self.num_layers = len(self.vit.blocks)
        self.patch_size = self.vit.patch_embed.patch_size
        self.num_prefix_tokens = self.vit.num_prefix_tokens
        # Of the tag that is named, or of the arch's usual weights if a file is.
        tag = f'{arch}.{weights}'
        known = timm.models.get_pretrained_cfg(
            tag if timm.models.is_model_pretrained(tag) else arch
        )
        self.mean, self.std = tuple(known.mean), tuple(known.std)
        self.pos_grid = self.vit.patch_embed.grid_size
        self.frozen_dtype = _DTYPES[dtype]
        self.identity = RANDOM
        if weights is not None:
            tensors = read_weights(weights, arch)
            self.pos_grid = fill(self.vit, tensors)
            self.identity = fingerprint(tensors)
        self._pos_cache: dict[tuple, Tensor] = {}

    def embed(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Turn an image (B, 3, H, W) into tokens (B, P + N, C) and their grid (h, w)."""
        projection = self.vit.patch_embed.proj
        patches = projection(image.to(projection.weight.dtype))
        grid = tuple(patches.shape[-2:])
        patches = self.vit.patch_embed.norm(patches.flatten(2).transpose(1, 2))
        prefix = [
            token.expand(len(patches), -1, -1)
            for token in (self.vit.cls_token, self.vit.reg_token)
            if token is not None
        ]
        position = self._position(grid)
        if self.vit.no_embed_class:
            tokens = torch.cat([*prefix, patches + position], dim=1)
        else:
            tokens = torch.cat([*prefix, patches], dim=1) + position
        return self.vit.norm_pre(self.vit.pos_drop(tokens)), grid

    def run(
        self, tokens: Tensor, places: BlockPlaces, tap_indices: Collection[int]
    ) -> dict[int, Tensor]:
        """Run the blocks up to the last tap; the one block loop of this trunk family."""
        taps = {}
        for index in range(max(tap_indices) + 1):
            block = self.vit.blocks[index]
            tokens = places.before_block(index, tokens)
            branch = block.attn(apply_norm(block.norm1, tokens))
            tokens = tokens + block.drop_path1(block.ls1(branch))
            branch = block.mlp(apply_norm(block.norm2, tokens))
            tokens = tokens + block.drop_path2(block.ls2(branch))
            if index in tap_indices:
                taps[index] = tokens
        return taps

    def final_norm(self, tokens: Tensor) -> Tensor:
        """Apply the norm after the last block to tokens (..., C)."""
        return apply_norm(self.vit.norm, tokens)

    def block_norms(self, index: int) -> list[nn.Module]:
        """Return the norms at the entries of attention and MLP of block ``index``."""
        return [self.vit.blocks[index].norm1, self.vit.blocks[index].norm2]

    def hold_frozen(self) -> None:
        """Cast the frozen tensors to the dtype they shall be held in."""
        for parameter in self.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(self.frozen_dtype)

    def _position(self, grid: tuple[int, int]) -> Tensor:
        """Return the position embedding for a grid, (1, [P +] h * w, C)."""
        own = self.vit.pos_embed
        if grid == self.pos_grid:
            return own
        num_prefix = 0 if self.vit.no_embed_class else self.num_prefix_tokens

        def resample() -> Tensor:
            return resample_abs_pos_embed(own, grid, self.pos_grid, num_prefix)

        if own.requires_grad:
            return resample()
        # The version counter changes when weights are loaded in place.
        key = (grid, own.device, own.dtype, own._version)
        if key not in self._pos_cache:
            self._pos_cache[key] = resample()
        return self._pos_cache[key]


def apply_norm(norm: nn.Module, tokens: Tensor) -> Tensor:
    """Apply a norm that may be float32 (trainable) to tokens that may be bfloat16 (frozen trunk)."""
    weight = getattr(norm, 'weight', None)
    if weight is None or weight.dtype == tokens.dtype:
        return norm(tokens)
    return norm(tokens.to(weight.dtype)).to(tokens.dtype)


def create_vit(arch: str, options: dict[str, Any]) -> VisionTransformer:
    """Build a timm ViT without weights and refuse by name what the block loop cannot drive.

    Raises:
        UserError: ``arch`` is unknown or of another family, or an option is not one of its.
    """
    if not timm.is_model(arch):
        raise UserError(f'trunk.arch {arch!r} is not a timm model: {nearest(arch, _plain_vits())}')
    known = inspect.signature(VisionTransformer).parameters
    for name in options:
        if name in _OWNED_OPTIONS or name not in known:
            allowed = [option for option in known if option not in _OWNED_OPTIONS]
            raise UserError(
                f'trunk.arch_options {name!r} cannot be set here: {nearest(name, allowed)}'
            )
    vit = _create(arch, options) if arch in _plain_vits() else None
    reason = 'it is no plain ViT' if vit is None else _unsupported(vit)
    if reason:
        raise UserError(
            f'trunk.arch {arch!r} is not supported ({reason}): use a plain ViT of timm such as '
            'vit_base_patch16_224, deit_small_patch16_224 or vit_base_patch14_dinov2'
        )
    return vit


def _create(arch: str, options: dict[str, Any]) -> nn.Module:
    """Call timm; what it asserts about an option's value becomes a `UserError`."""
    try:
        # `dynamic_img_size` only lifts the check of the image size; `embed` does the rest.
        return timm.create_model(
            arch, pretrained=False, num_classes=0, dynamic_img_size=True, **options
        )
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f'trunk.arch_options {options} do not suit {arch}: {error or type(error).__name__}'
        ) from error


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
    if vit.pos_embed is None:
        return 'it has no absolute position embedding'
    if vit.attn_pool is not None or not isinstance(vit.patch_drop, nn.Identity):
        return 'it has attention pooling or patch dropout'
    return ''
