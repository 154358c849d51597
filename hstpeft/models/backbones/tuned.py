"""The backbone: the only place where a trunk and a tuner meet.

Shapes: B batch, C trunk width, D side width, H W pixels, h w grid.
"""

import math
from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor
from torch.nn import functional as F

from hstpeft.delta.identity import Identity, encode_identity, hash_description, write_form
from hstpeft.delta.ownership import freeze_all_but
from hstpeft.delta.state import install_state_hooks
from hstpeft.errors import UserError
from hstpeft.models.backbones.building import build_trunk, build_tuner
from hstpeft.models.backbones.outputs import SideMaps, TrunkOutputs
from hstpeft.models.trunks import Trunk
from hstpeft.models.tuners import Tuner
from hstpeft.registry import MODELS


@MODELS.register_module()
class TunedBackbone(BaseModule):
    """A frozen pre-trained trunk, adapted by a tuner; fits mmpretrain, mmseg and mmdet.

    Its state dict is the delta: the tuner, the trunk parameters that the tuner trains, and the
    identity of both. Loading refuses another trunk, another tuner, other options of them, other
    outputs (``out_type``, ``out_indices``, ``out_norm``), and any missing, unexpected or reshaped
    key. Config dicts end here: everything below takes flat, typed arguments.

    Args:
        trunk: Config of a trunk, e.g. ``dict(type='hstpeft.ViTTrunk', arch=..., weights=...)``;
            ``type`` may be the class itself.
        tuner: Config of a tuner, e.g. ``dict(type='hstpeft.HSTTuner')``, or a list of several that do
            not stand at the same place; see `CombinedTuner`. A list of one is that one.
        out_type: What a tuner without maps of its own gives, as in mmpretrain's ViT:
            ``cls_token``, ``avg_featmap``, ``featmap`` or ``raw``, and ``attn_pool`` for the
            pre-trained pooling of a trunk that keeps it; the default is the first that the
            trunk has. HST always gives its maps.
        out_indices: Which maps (HST: default all four, at strides 4, 8, 16, 32), blocks (ViT)
            or stages (Swin; default the last) to return, in order; negative ones count from
            the end. A single number is a sequence of one.
        out_norm: Put a trainable LayerNorm on each map but the one of the last block or stage,
            which the trunk's own norm is for, as the hosts' Swin does: what reads the maps
            then finds them on one scale. Only with ``out_type='featmap'``.
        with_cp: Activation checkpointing: the backward pass runs each block of the trunk and of
            the side network again instead of keeping what happens in it. Same outputs and
            gradients, much less memory, about a third more time.
        init_cfg: Must be None: the trunk's weights come through ``trunk.weights``.

    Attributes:
        outputs: What leaves the backbone: `TrunkOutputs` or `SideMaps`.

    Raises:
        UserError: An argument is wrong; names it, its value and the remedy.
    """

    def __init__(
        self,
        trunk: dict,
        tuner: dict | Sequence[dict],
        out_type: str | None = None,
        out_indices: Sequence[int] | int | None = None,
        out_norm: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        if init_cfg is not None:
            raise UserError(
                f'backbone.init_cfg {init_cfg} is not used: give the pre-trained weights as '
                'backbone.trunk.weights'
            )
        super().__init__()
        self.trunk: Trunk = build_trunk(trunk)
        self.tuner: Tuner = build_tuner(tuner)
        self.tuner.check_trunk(self.trunk)
        kind = SideMaps if self.tuner.strides else TrunkOutputs
        self.outputs = kind(self.trunk, self.tuner, out_type, out_indices, out_norm)
        self.out_norms = self.outputs.norms
        self.trunk.with_cp = self.tuner.with_cp = with_cp
        self.tuner.attach(self.trunk)
        trained = [*self.tuner.own_parameters(), *self.tuner.trunk_parameters(self.trunk)]
        freeze_all_but(self, [*trained, *self.out_norms.parameters()])
        self.trunk.hold_frozen()
        install_state_hooks(self)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Width of each entry of the output: the ``in_channels`` of what reads it."""
        return self.outputs.channels

    @property
    def out_strides(self) -> tuple[tuple[int, int], ...]:
        """Pixels (height, width) of a cell of each map; empty if the outputs are no maps."""
        return self.outputs.strides

    @property
    def out_indices(self) -> tuple[int, ...]:
        """Which maps, blocks or stages are returned, counted from 0."""
        return self.outputs.indices

    @property
    def out_type(self) -> str | None:
        """The form of the outputs; None for maps of the tuner's own."""
        return self.outputs.out_type

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Extract features.

        Args:
            image: Normalised images (B, 3, H, W) of any size from one patch up.

        Returns:
            From high to low resolution. HST: maps (B, D, ceil(H / stride), ceil(W / stride)).
            Other tuners, one entry per index: ``cls_token`` and ``avg_featmap`` (B, C), for a
            tuner of two branches a list [image, prompt] of them; ``featmap``
            (B, C, ceil(H / stride), ceil(W / stride)) and ``raw`` (the trunk's tokens) of the
            image.
        """
        padded = self._pad(image)
        tokens, grid = self.trunk.embed(padded)
        taps = self.tuner.run(self.trunk, tokens, grid, self.outputs.read_indices())
        return self.outputs.make(image, padded, taps, grid)

    def merge_tuner(self) -> None:
        """Fold the tuner into the trunk, in place; see `Tuner.merge`."""
        self.tuner = self.outputs.tuner = self.tuner.merge(self.trunk)

    def identity(self) -> Identity:
        """Return who a delta of this backbone belongs to."""
        description = {
            'trunk': {'type': type(self.trunk).__name__, **self.trunk.description()},
            'tuner': {'type': type(self.tuner).__name__, **self.tuner.description()},
        }
        words = self.tuner.kind + self.trunk.form
        dtype, has_norms = self.trunk.frozen_dtype, len(self.out_norms) > 0
        form = write_form(self.out_type, self.out_indices, has_norms, dtype)
        return Identity(self.trunk.identity, hash_description(description), words, form)

    def get_extra_state(self) -> Tensor:
        """Return the identity, packed."""
        return encode_identity(self.identity())

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing to set: the load hook has compared the identity with the model's."""

    def _pad(self, image: Tensor) -> Tensor:
        """Pad right and bottom with zeros, once for trunk and side network alike."""
        height, width = image.shape[-2:]
        if height < self.trunk.patch_size[0] or width < self.trunk.patch_size[1]:
            patch = ' x '.join(map(str, self.trunk.patch_size))
            raise UserError(
                f'an image of {height} x {width} pixels is smaller than a patch of the trunk '
                f'({patch}): resize it in the pipeline'
            )
        multiples = [math.lcm(n, self.tuner.pixel_multiple) for n in self.trunk.pixel_multiple]
        bottom, right = -height % multiples[0], -width % multiples[1]
        return F.pad(image, (0, right, 0, bottom)) if bottom or right else image
