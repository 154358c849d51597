"""Hierarchical Side-Tuning (https://arxiv.org/abs/2310.05393).

Shapes: B batch, M meta tokens, P prefix tokens, N = h * w patches, C trunk width, D side width,
H W pixels, h w grid.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hstpeft.errors import UserError, check_choice, check_least
from hstpeft.models.side import STEM_NORMS, SideNetwork
from hstpeft.models.trunks import Trunk
from hstpeft.models.tuners.base import Tuner
from hstpeft.registry import MODELS


@MODELS.register_module()
class HSTTuner(Tuner):
    """Meta tokens in every block, trainable block norms, and a hierarchical side network.

    Every block of the trunk gets its own meta tokens in front of its sequence (the paper's
    meta-global tokens); they are dropped after the block. The side network reads the blocks'
    outputs and makes four maps at strides 4, 8, 16 and 32.

    Trainable values for a ViT-B/16 with the default options: 764,840.

    Args:
        side_dims: Width of each stage of the side network.
        side_heads: Heads of the cross-attention of each stage.
        side_depths: Side blocks of each stage. Default: the trunk's blocks dealt out evenly, 3 per
            stage for a ViT-B and 6 for a ViT-L.
        tap_indices: The trunk block that each side block reads, in order. Default: spread evenly
            up to the last block. The official default for 24 blocks is ``range(12)``, which
            leaves half of them unused.
        num_meta_tokens: Meta tokens of a block.
        side_drop_path_rate: Drop path of the last side block, growing linearly from 0.
        mlp_ratio: Hidden width of a side block's MLP over its width.
        qkv_bias: Whether the side network's cross-attention has query, key and value biases.
        stem_norm: Norm of the side network's stem: ``BN``, ``SyncBN`` (over all processes),
            ``FrozenBN`` (fixed statistics and affine, to go on from a delta that has them) or
            ``GN``. The first three have the same keys, so a delta of one fits the others.
    """

    needs = ('token_sequence', 'one_stage', 'maps')
    pixel_multiple = 4
    strides = (4, 8, 16, 32)

    def __init__(
        self,
        side_dims: Sequence[int] = (32, 48, 64, 72),
        side_heads: Sequence[int] = (2, 4, 8, 12),
        side_depths: Sequence[int] | None = None,
        tap_indices: Sequence[int] | None = None,
        num_meta_tokens: int = 1,
        side_drop_path_rate: float = 0.0,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        stem_norm: str = 'BN',
    ) -> None:
        super().__init__()
        for name, values in (('side_dims', side_dims), ('side_heads', side_heads)):
            if len(values) != len(self.strides) or min(values) < 1:
                raise UserError(f'tuner.{name} {tuple(values)} must be four positive numbers')
        for dims, heads in zip(side_dims, side_heads, strict=True):
            if dims % heads:
                raise UserError(f'tuner.side_heads {heads} does not divide the side width {dims}')
        check_least('tuner.num_meta_tokens', num_meta_tokens, 1)
        check_choice('tuner.stem_norm', stem_norm, STEM_NORMS)
        self.side_dims, self.side_heads = tuple(side_dims), tuple(side_heads)
        self.map_dims = self.side_dims
        self.side_depths = None if side_depths is None else tuple(side_depths)
        self.given_taps = None if tap_indices is None else tuple(tap_indices)
        self.num_meta_tokens = self.num_front_tokens = num_meta_tokens
        self.side_drop_path_rate = side_drop_path_rate
        self.mlp_ratio = mlp_ratio
        self.qkv_bias = qkv_bias
        self.stem_norm = stem_norm

    def attach(self, trunk: Trunk) -> None:
        """Build meta tokens for every block up to the last tap, and the side network."""
        if self.side_depths is None and trunk.num_layers < len(self.strides):
            raise UserError(
                f'backbone.tuner HSTTuner reads a block in each of its four stages, and only '
                f'{trunk.num_layers} of the trunk run: use a deeper trunk, or another tuner'
            )
        depths = self.side_depths or deal_out(trunk.num_layers, len(self.strides))
        if len(depths) != len(self.strides) or min(depths) < 1:
            raise UserError(f'tuner.side_depths {depths} must be four positive numbers')
        self.taps = self._choose_taps(sum(depths), trunk.num_layers)
        shape = (1, self.num_meta_tokens, trunk.embed_dims)
        self.meta_tokens = nn.ParameterList(torch.empty(shape) for _ in range(self.taps[-1] + 1))
        for tokens in self.meta_tokens:
            nn.init.xavier_uniform_(tokens)
        self.side = SideNetwork(
            trunk_dims=trunk.embed_dims,
            dims=self.side_dims,
            heads=self.side_heads,
            depths=depths,
            drop_path_rate=self.side_drop_path_rate,
            mlp_ratio=self.mlp_ratio,
            qkv_bias=self.qkv_bias,
            stem_norm=self.stem_norm,
            with_cp=self.with_cp,
        )

    def description(self) -> dict[str, Any]:
        """Return heads and taps; all else shows in the tensors."""
        return {'side_heads': self.side_heads, 'taps': self.taps}

    def trunk_parameters(self, trunk: Trunk) -> list[nn.Parameter]:
        """Return the norms of the blocks that run; the final norm is not used."""
        return [
            parameter
            for index in range(self.taps[-1] + 1)
            for name in ('norm1', 'norm2')
            for parameter in trunk.layer(index, name).parameters()
        ]

    def token_parameters(self) -> list[nn.Parameter]:
        """Return the meta tokens."""
        return list(self.meta_tokens)

    def tap_indices(self, trunk: Trunk) -> tuple[int, ...]:
        """Return the block that each side block reads."""
        return self.taps

    def before_block(self, index: int, tokens: Tensor) -> Tensor:
        """Put this block's meta tokens where those of the block before were."""
        meta = self.meta_tokens[index].to(tokens.dtype).expand(len(tokens), -1, -1)
        kept = tokens if index == 0 else tokens[:, self.num_meta_tokens :]
        return torch.cat([meta, kept], dim=1)

    def maps(
        self, image: Tensor, taps: dict[int, Tensor], grid: tuple[int, int], num_prefix_tokens: int
    ) -> list[Tensor]:
        """Run the side network: four maps (B, D, H / stride, W / stride)."""
        read = [taps[index] for index in self.taps]
        return self.side(image, read, grid, self.num_meta_tokens, num_prefix_tokens)

    def _choose_taps(self, num_taps: int, num_layers: int) -> tuple[int, ...]:
        if self.given_taps is None:
            if num_taps > num_layers:
                raise UserError(
                    f'tuner.side_depths sum to {num_taps}, but the trunk has only {num_layers} '
                    'blocks: give fewer side blocks, or tap_indices'
                )
            return tuple((i + 1) * num_layers // num_taps - 1 for i in range(num_taps))
        taps = self.given_taps
        if len(taps) != num_taps or list(taps) != sorted(taps):
            raise UserError(
                f'tuner.tap_indices {taps} must name one block for each of the {num_taps} side '
                'blocks, in rising order'
            )
        if taps[0] < 0 or taps[-1] >= num_layers:
            raise UserError(
                f'tuner.tap_indices {taps} are out of range: the trunk has {num_layers} blocks'
            )
        return taps


def deal_out(num_layers: int, num_stages: int) -> tuple[int, ...]:
    """Split blocks into stages as evenly as possible, later stages getting the remainder."""
    bounds = [stage * num_layers // num_stages for stage in range(num_stages + 1)]
    return tuple(end - start for start, end in itertools.pairwise(bounds))
