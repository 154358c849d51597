"""The trunk family of timm's Swin transformers.

Shapes: B batch, C width of a stage, H W pixels, h w grid of a stage. Tokens are (B, h, w, C).
"""

import functools
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from hstpeft.delta import RANDOM, fingerprint
from hstpeft.models.recompute import recomputed
from hstpeft.models.trunks.base import Trunk, check_dtype
from hstpeft.models.trunks.blocks import apply_norm
from hstpeft.models.trunks.filling import fill
from hstpeft.models.trunks.front_tokens import attend_with_front, merge_with_front
from hstpeft.models.trunks.frozen_linear import wrap_linears
from hstpeft.models.trunks.one_stage import describe_blocks
from hstpeft.models.trunks.places import Places
from hstpeft.models.trunks.swin_block import (
    attend_in_padded_map,
    attend_in_windows,
    run_swin_block,
)
from hstpeft.models.trunks.timm_models import create_swin, mean_std
from hstpeft.models.trunks.weights import read_weights
from hstpeft.registry import MODELS


@MODELS.register_module()
class SwinTrunk(Trunk):
    """A Swin transformer of timm (https://arxiv.org/abs/2103.14030).

    Blocks whose window covers a side of the grid do not shift. Images may have any size: sides
    are padded to whole patches of the last stage, and windows that stand over the edge are padded
    as timm does. Outputs are the stages.

    With ``detection_style`` it is the Swin of detectors (mmdetection, mmsegmentation, Mona), which
    differs where a window does not fit: odd blocks shift always, also where one window covers the
    grid; a window larger than the grid stays as large; the map is padded to whole windows before
    it is shifted, with zeros that the attention reads; images are padded to whole patches of the
    first stage alone.

    Args:
        arch: Name of a timm model, e.g. ``swin_base_patch4_window7_224``.
        arch_options: Passed to ``timm.create_model``: ``embed_dim``, ``depths``, ``num_heads``,
            ``window_size``, ``img_size``, ``drop_path_rate`` (0 unless given), ...
        weights: A ``.pth`` (Microsoft, timm) or ``.safetensors`` file, a timm tag to download
            (``ms_in22k``), a dict of tensors, or None = random.
        dtype: ``float32`` or ``bfloat16``: what the frozen tensors are held in.
        detection_style: Whether windows that do not fit are those of detectors.

    Raises:
        UserError: Unknown ``arch``, a wrong option, a window that does not divide the grid that
            ``img_size`` gives (unless ``detection_style``), weights that do not fit.
    """

    capabilities = frozenset({'front_tokens', 'stages', 'block_parts', 'maps'})
    bias_options = MappingProxyType({'qkv_bias': ('qkv',)})
    num_prefix_tokens = 0
    output_kind = 'stage'
    out_types = ('avg_featmap', 'featmap', 'raw')
    out_type_note = 'a Swin has no class token'

    def __init__(
        self,
        arch: str,
        arch_options: Mapping[str, Any] | None = None,
        weights: str | Mapping[str, Tensor] | None = None,
        dtype: str = 'float32',
        detection_style: bool = False,
    ) -> None:
        super().__init__()
        self.frozen_dtype = check_dtype(dtype)
        self.arch, self.arch_options = arch, dict(arch_options or {})
        self.swin = create_swin(arch, self.arch_options, detection_style)
        self.detection_style = detection_style
        self.form = ' with windows as in detectors' if detection_style else ''
        wrap_linears(self.swin.layers)
        self.block_form = describe_blocks(self.swin, self.block(0))
        self.stage_depths = tuple(len(layer.blocks) for layer in self.swin.layers)
        self.stage_dims = tuple(layer.blocks[0].dim for layer in self.swin.layers)
        self.num_blocks = self.num_layers = sum(self.stage_depths)
        self.embed_dims = self.stage_dims[-1]
        self.patch_size = self.swin.patch_embed.patch_size
        self.grid_size = self.swin.patch_embed.grid_size
        self.output_dims = self.stage_dims
        self.output_strides = tuple(
            (self.patch_size[0] * 2**stage, self.patch_size[1] * 2**stage)
            for stage in range(len(self.stage_depths))
        )
        self.pixel_multiple = self.output_strides[0 if detection_style else -1]
        self.mean, self.std = mean_std(arch, weights)
        self.identity = RANDOM
        if weights is not None:
            tensors = read_weights(weights, arch)
            fill(self.swin, tensors)
            self.identity = fingerprint(tensors)

    @property
    def net(self) -> nn.Module:
        """timm's model."""
        return self.swin

    def embed(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Turn an image (B, 3, H, W) into tokens (B, h, w, C) and their grid (h, w)."""
        tokens = self.swin.patch_embed(image.to(self.swin.patch_embed.proj.weight.dtype))
        return tokens, tuple(tokens.shape[1:3])

    def run(
        self,
        tokens: Tensor,
        places: Places,
        tap_indices: Collection[int],
        grid: tuple[int, int] | None = None,
    ) -> dict[int, Tensor]:
        """Run the stages up to the last tapped one; the one block loop of this trunk family.

        With ``places.num_front_tokens`` the tokens are one sequence (B, T + h * w, C) instead of
        (B, h, w, C), at every place and in the outputs.
        """
        taps, index, front = {}, 0, places.num_front_tokens
        attention = self.attention
        tokens = places.after_embedding(tokens.flatten(1, 2) if front else tokens)
        for stage, layer in enumerate(self.swin.layers[: max(tap_indices) + 1]):
            if front:
                assert grid, 'front tokens need the grid'
                own = self.output_grid(stage, grid)
                before = self.output_grid(max(stage - 1, 0), grid)
                tokens = merge_with_front(layer.downsample, tokens, before, front)
                attention = functools.partial(
                    attend_with_front,
                    grid=own,
                    num_front_tokens=front,
                    pad_first=self.detection_style,
                )
            else:
                tokens = layer.downsample(tokens)
            for block in layer.blocks:
                arguments = (block, index, tokens, places, attention)
                tokens = recomputed(run_swin_block, *arguments, when=self.with_cp)
                index += 1
            if stage in tap_indices:
                taps[stage] = tokens
        return taps

    @property
    def attention(self) -> Callable[[SwinTransformerBlock, Tensor], Tensor]:
        """How a block attends: from its normalised tokens (B, h, w, C) to what is added."""
        return attend_in_padded_map if self.detection_style else attend_in_windows

    def stages(self) -> list[tuple[nn.Module, list[SwinTransformerBlock]]]:
        """Return the patch merging (none before the first) and the blocks of every stage."""
        return [(layer.downsample, list(layer.blocks)) for layer in self.swin.layers]

    def depths(self) -> dict[int, int]:
        """Count a patch merging to the block before it."""
        depths, passed = super().depths(), 0
        for (merging, _), depth in zip(self.stages(), self.stage_depths, strict=False):
            depths.update((id(parameter), passed) for parameter in merging.parameters())
            passed += depth
        return depths

    def normalise_patches(self, tokens: Tensor) -> Tensor:
        """Apply the norm behind the patch embedding to tokens (..., C)."""
        return apply_norm(self.swin.patch_embed.norm, tokens)

    def output_grid(self, index: int, grid: tuple[int, int]) -> tuple[int, int]:
        """Return the grid of stage ``index``: an uneven side counts its rest as a cell."""
        return tuple(-(-side // 2**index) for side in grid)

    def stop_after(self, output: int, pools: bool) -> None:
        """Count no block behind stage ``output``."""
        self.stage_depths = self.stage_depths[: output + 1]
        self.stage_dims = self.stage_dims[: output + 1]
        self.num_layers = sum(self.stage_depths)

    def idle_modules(self) -> list[nn.Module]:
        """Return the stages that do not run, and then the final norm."""
        stages = list(self.swin.layers[len(self.stage_depths) :])
        return [*stages, self.swin.norm] if stages else []

    def final_norm(self, tokens: Tensor) -> Tensor:
        """Apply the norm after the last block to tokens (..., C)."""
        return apply_norm(self.swin.norm, tokens)

    def pool(self, tokens: Tensor) -> Tensor:
        """Average the tokens (B, h, w, C) or (B, L, C) of an output; returns (B, C)."""
        return tokens.mean(dim=tuple(range(1, tokens.dim() - 1)))

    def to_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Arrange tokens (B, h, w, C) as a map (B, C, h, w)."""
        return tokens.permute(0, 3, 1, 2)

    def token_parameters(self) -> list[nn.Parameter]:
        """Return the tables of relative positions."""
        blocks = [block for layer in self.swin.layers for block in layer.blocks]
        return [block.attn.relative_position_bias_table for block in blocks]

    def block_path(self, index: int) -> str:
        """Return the name of a block of timm's by its number in the whole trunk."""
        depths = [len(layer.blocks) for layer in self.swin.layers]
        for stage, depth in enumerate(depths):
            if index < depth:
                return f'layers.{stage}.blocks.{index}'
            index -= depth
        raise IndexError(f'this trunk has {sum(depths)} blocks')

    def description(self) -> dict[str, Any]:
        """Return heads, activation, eps, norms and windows."""
        blocks = [block for _, stage in self.stages() for block in stage]
        last, windows = self.swin.layers[-1], [block.window_size for block in blocks]
        # Where a window covers the last stage, the windows tell the grid, and so what shifts.
        is_told = self.detection_style or windows[-1] == tuple(last.output_resolution)
        return {
            **self.block_form,
            'window_size': windows,
            'num_heads': [stage[0].attn.num_heads for _, stage in self.stages()],
            'detection_style': self.detection_style,
            'shift_size': [] if is_told else [block.shift_size for block in blocks],
        }
