"""The trunk family of timm's class Eva: vision transformers with rotary positions.

Shapes: K heads, D width of a head, N = h * w patches, h w grid.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hstpeft.models.trunks import blocks
from hstpeft.models.trunks.blocks import Mixer
from hstpeft.models.trunks.rope import describe_rope, mix_rotated
from hstpeft.models.trunks.sequence import SequenceTrunk
from hstpeft.models.trunks.sequence_models import create_eva
from hstpeft.registry import MODELS


@MODELS.register_module()
class EvaTrunk(SequenceTrunk):
    """DINOv3, EVA-02, Perception Encoder, RoPE-ViT, LingBot-Vision, Sapiens2: timm's class Eva.

    Pre-norm blocks like a ViT's. Queries and keys of the patches are turned by their place (axial
    angles, or in ``*_rope_mixed_*`` learned ones, others in each head and block,
    https://arxiv.org/abs/2403.13298); prefix tokens, and tokens that a tuner adds, have no place
    and are not turned. Images may have any size that is a multiple of the patch; an absolute
    position embedding, where there is one, is resampled as in `ViTTrunk`.

    ``qkv`` has a bias of its own where timm's files have ``q_bias`` and ``v_bias``.

    Args:
        arch: Name of a timm model, e.g. ``vit_base_patch16_dinov3``.
        arch_options: Passed to ``timm.create_model``, as in `ViTTrunk`.
        weights: A ``.pth`` (timm, DINOv3) or ``.safetensors`` file, a timm tag to download
            (``lvd1689m``), a dict of tensors, or None = random.
        dtype: ``float32`` or ``bfloat16``: what the frozen tensors are held in, but for the
            learned frequencies of positions, which stay float32.
        mlp_drop_rate: Dropout inside the MLPs alone.
        window_size: Patches a side of a window, see `ViTTrunk`; places are those in the image.
        global_attn_indices: Blocks that have no windows.
        attn_pool: Whether the attention pooling of ``vit_pe_core_*`` is kept, for
            ``out_type='attn_pool'``. Otherwise it and its weights are left out.

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
        attn_pool: bool = False,
    ) -> None:
        vit = create_eva(arch, dict(arch_options or {}), attn_pool)
        super().__init__(vit, arch, weights, dtype, mlp_drop_rate, window_size, global_attn_indices)
        self.arch, self.arch_options = arch, dict(arch_options or {})

    def mixers(self, grid: tuple[int, int] | None, first_patch: int) -> dict[int, Mixer]:
        """Return, by block, what mixes in another way than `mix`: rotated, and then in windows."""
        mixers, rope = super().mixers(grid, first_patch), self.vit.rope
        if rope is None:
            return mixers
        assert grid, 'rotary positions need the grid'
        embedded = rope.get_embed(shape=grid)  # (N, 2 D), mixed: (blocks, K, N, 2 D)
        return {
            index: functools.partial(
                mix_rotated,
                rope=embedded[index] if self.vit.rope_mixed else embedded,
                first_patch=first_patch,
                mixer=mixers.get(index, blocks.mix),
            )
            for index in range(self.num_layers)
        }

    def hold_frozen(self) -> None:
        """Cast the frozen parameters, but for learned frequencies: places multiply their error."""
        freqs = getattr(self.vit.rope, 'freqs', None)
        exact = None if freqs is None else freqs.data
        super().hold_frozen()
        if freqs is not None:
            freqs.data = exact

    def description(self) -> dict[str, Any]:
        """Return what a ViT returns, and the form of the rotary positions."""
        rope = {} if self.vit.rope is None else describe_rope(self.vit.rope)
        return {**super().description(), 'rope': rope}
