"""The trunk family of timm's plain vision transformers."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hstpeft.models.trunks.one_stage import VIT_BIASES
from hstpeft.models.trunks.sequence import SequenceTrunk
from hstpeft.models.trunks.sequence_models import create_vit
from hstpeft.registry import MODELS


@MODELS.register_module()
class ViTTrunk(SequenceTrunk):
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
        attn_pool: Whether the attention pooling of SigLIP and its like is kept, for
            ``out_type='attn_pool'``. Otherwise it and its weights are left out.

    Raises:
        UserError: Unknown or unsupported ``arch``, a wrong option, weights that do not fit.
    """

    bias_options = VIT_BIASES
    capabilities = SequenceTrunk.capabilities | {'block_parts'}

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
        vit = create_vit(arch, dict(arch_options or {}), attn_pool)
        super().__init__(vit, arch, weights, dtype, mlp_drop_rate, window_size, global_attn_indices)
        self.arch, self.arch_options = arch, dict(arch_options or {})
