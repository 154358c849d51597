"""What a trunk is to the rest of hstpeft.

Shapes: B batch, P prefix tokens, N = h * w patches, L tokens, C trunk width, H W pixels, h w grid.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hstpeft.errors import UserError
from hstpeft.models.trunks.layers import BEHIND_BLOCKS, NamedLayers
from hstpeft.models.trunks.layout import Layout
from hstpeft.models.trunks.parameters import own_parameters
from hstpeft.models.trunks.places import Places

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}
CAPABILITIES = {
    'front_tokens': 'tokens before the patches that every patch reads',
    'token_sequence': 'tokens in one sequence that may be lengthened',
    'one_stage': 'blocks of one width on one grid',
    'stages': 'stages of blocks that attend in windows',
    'whole_image': 'attention that reads the whole image in every block',
    'block_parts': 'blocks whose norms, projections and attention can be run one by one',
    'maps': 'outputs that are maps',
    'whole_widths': 'Linears of whole multiples of its width, and no gates, in every block',
}
"""What a tuner may need of a trunk, in words."""


class Trunk(NamedLayers, nn.Module, ABC):
    """A pre-trained transformer: knows its shape, embeds images and runs its blocks.

    A plain ``nn.Module``: a host's ``init_weights`` must not find anything to initialise here.
    It loads its weights in its constructor, since the hosts' test paths never call
    ``init_weights``.

    Attributes:
        capabilities: Which of `CAPABILITIES` it has.
        arch: Name of timm's model; empty if timm has none.
        arch_options: Options of timm's model, as given.
        identity: Hash of the pre-trained tensors, or ``'random'``.
        embed_dims: Width C of the last block.
        num_blocks: Number of blocks.
        num_layers: Number of blocks that run.
        stage_depths: Blocks of each stage that runs; a ViT is one stage.
        stage_dims: Width of each stage.
        patch_size: Pixels (height, width) of a patch.
        grid_size: Grid (h, w) at the image size that the trunk was built for.
        pixel_multiple: Image sides (height, width) must be multiples of these.
        output_kind: What each output that can be tapped belongs to: a ``block`` or a ``stage``.
        output_dims: Width of each output.
        output_strides: Pixels (height, width) of a cell of each output.
        num_prefix_tokens: Tokens P before the patches (class and register tokens).
        out_types: Forms of an output that exist, the usual one first.
        out_type_note: Why the other forms do not exist.
        form: How the blocks run where their weights do not show it, in words for messages.
        frozen_dtype: What the frozen parameters are held in.
        with_cp: Whether the backward pass runs each block again instead of keeping what happens
            in it; set by the backbone.
        mean: Channel means that the weights expect, in 0..1.
        std: Channel deviations that the weights expect, in 0..1.
    """

    capabilities: frozenset[str]
    arch: str = ''
    arch_options: Mapping[str, Any] = {}
    identity: str
    embed_dims: int
    num_blocks: int
    num_layers: int
    stage_depths: tuple[int, ...]
    stage_dims: tuple[int, ...]
    patch_size: tuple[int, int]
    grid_size: tuple[int, int]
    pixel_multiple: tuple[int, int]
    output_kind: str = 'block'
    output_dims: tuple[int, ...]
    output_strides: tuple[tuple[int, int], ...]
    num_prefix_tokens: int
    out_types: tuple[str, ...]
    out_type_note: str = ''
    form: str = ''
    frozen_dtype: torch.dtype
    with_cp: bool = False
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    @abstractmethod
    def net(self) -> nn.Module:
        """The module whose names are those of weight files."""

    @abstractmethod
    def embed(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Turn an image (B, 3, H, W) into tokens and their grid (h, w)."""

    @abstractmethod
    def run(
        self,
        tokens: Tensor,
        places: Places,
        tap_indices: Collection[int],
        grid: tuple[int, int] | None = None,
    ) -> dict[int, Tensor]:
        """Run the blocks up to the last tap.

        Args:
            tokens: From `embed`.
            places: Acts at the places of every block.
            tap_indices: Outputs that are wanted: blocks (ViT) or stages (Swin).
            grid: (h, w) from `embed`; windows and rotary positions need it.

        Returns:
            Each tapped output, with whatever tokens the places added.
        """

    @abstractmethod
    def stop_after(self, output: int, pools: bool) -> None:
        """Count no block behind an output: it does not run, so nothing is to be built for it.

        Args:
            output: The last one that is wanted.
            pools: Whether outputs are averaged by `pool`.

        A trunk of one stage also takes ``norms=False``: no output gets its `final_norm`.
        """

    @abstractmethod
    def idle_modules(self) -> list[nn.Module]:
        """Return what does not run because of `stop_after`."""

    @abstractmethod
    def pool(self, tokens: Tensor) -> Tensor:
        """Average the tokens of an output, but for the prefix tokens; returns (B, C)."""

    def attention_pool(self, tokens: Tensor) -> Tensor:
        """Pool the tokens of an output as the trunk was pre-trained to; returns (B, C).

        Only of a trunk that has ``attn_pool`` among its `out_types`; `stop_after` of it is told so
        by ``attn_pools=True``.
        """
        raise NotImplementedError

    @abstractmethod
    def to_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Arrange the patches of an output as a map (B, C, h, w)."""

    @abstractmethod
    def final_norm(self, tokens: Tensor) -> Tensor:
        """Apply the norm behind the last block to tokens (..., C)."""

    @abstractmethod
    def token_parameters(self) -> list[nn.Parameter]:
        """Return prefix tokens and position embeddings, for the optimiser's decay rule."""

    @abstractmethod
    def block_path(self, index: int) -> str:
        """Return the name inside `net` of a block by its number in the whole trunk."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """Return what decides the function beside the tensors, for the identity of a delta.

        Plain values by name; the precision that frozen tensors are held in is no part of it. What
        is falsy is left out of the identity, so a later option whose neutral value is falsy leaves
        the identity of older deltas alone.
        """

    @property
    def cls_token(self) -> nn.Parameter | None:
        """The class token, if there is one."""
        return getattr(self.net, 'cls_token', None)

    @property
    def block_dims(self) -> tuple[int, ...]:
        """Width of each block that runs."""
        pairs = zip(self.stage_depths, self.stage_dims, strict=True)
        return tuple(dims for depth, dims in pairs for _ in range(depth))

    def output_grid(self, index: int, grid: tuple[int, int]) -> tuple[int, int]:
        """Return the grid of output ``index`` for an image that was embedded to ``grid``."""
        return grid

    def layout(self, grid: tuple[int, int], num_front_tokens: int) -> Layout:
        """Tell where the patches stand inside the blocks; for a trunk with maps.

        Args:
            grid: (h, w) from `embed`.
            num_front_tokens: Tokens that a tuner keeps before them, see `Places`.
        """
        pairs = enumerate(self.stage_depths)
        grids = [self.output_grid(stage, grid) for stage, depth in pairs for _ in range(depth)]
        return Layout(tuple(grids), num_front_tokens + self.num_prefix_tokens)

    def block(self, index: int) -> nn.Module:
        """Return a block by its number in the whole trunk."""
        return self.net.get_submodule(self.block_path(index))

    def depths(self) -> dict[int, int]:
        """Tell how deep the trunk's own parameters lie, by their ids, for layer-wise rates.

        Returns:
            0 for what stands before the blocks, i + 1 for block i, and ``num_layers + 1`` for the
            norms and the attention pooling behind the last one that runs.
        """
        depths = dict.fromkeys(map(id, own_parameters(self)), 0)
        for index in range(self.num_layers):
            depths.update((id(p), index + 1) for p in own_parameters(self.block(index)))
        behind = [self.layer(None, n) for n in self.layer_names(None) if n in BEHIND_BLOCKS]
        for module in (*behind, getattr(self.net, 'attn_pool', None)):
            own = () if module is None else own_parameters(module)
            depths.update((id(p), self.num_layers + 1) for p in own)
        return depths

    def running_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that have a part in the outputs up to `stop_after`'s."""
        idle = {id(p) for module in self.idle_modules() for p in module.parameters()}
        return [p for p in self.parameters() if id(p) not in idle]

    def hold_frozen(self) -> None:
        """Cast the frozen parameters to the dtype they shall be held in."""
        for parameter in self.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(self.frozen_dtype)


def check_dtype(dtype: str) -> torch.dtype:
    """Translate a trunk's ``dtype`` argument."""
    if dtype not in DTYPES:
        raise UserError(f'trunk.dtype {dtype!r} is not supported: use one of {list(DTYPES)}')
    return DTYPES[dtype]
