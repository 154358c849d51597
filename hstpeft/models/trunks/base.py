"""What a trunk is to the rest of hstpeft.

Shapes: B batch, P prefix tokens, N = h * w patches, L tokens, C trunk width, H W pixels, h w grid.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Protocol

import torch
from torch import Tensor, nn

from hstpeft.errors import UserError

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}


class BlockPlaces(Protocol):
    """The places of the block loop at which a tuner may act; each returns its replacement.

    Tokens are (B, L, C) in a ViT and (B, h, w, C) in a Swin. ``index`` counts the blocks of the
    whole trunk.

    Attributes:
        num_front_tokens: Tokens that `before_block` puts in front of the prefix tokens.
    """

    num_front_tokens: int

    def before_block(self, index: int, tokens: Tensor) -> Tensor:
        """Change the residual stream at the entry of a block."""

    def before_attention(self, index: int, tokens: Tensor) -> Tensor:
        """Change the normalised input of the attention."""

    def before_mlp_norm(self, index: int, tokens: Tensor) -> Tensor:
        """Change the residual stream between attention and the norm of the MLP."""

    def before_mlp(self, index: int, tokens: Tensor) -> Tensor:
        """Change the normalised input of the MLP."""

    def after_block(self, index: int, tokens: Tensor) -> Tensor:
        """Change the residual stream at the exit of a block."""


class Trunk(nn.Module, ABC):
    """A pre-trained transformer: knows its shape, embeds images and runs its blocks.

    A plain ``nn.Module``: a host's ``init_weights`` must not find anything to initialise here.
    It loads its weights in its constructor, since the hosts' test paths never call
    ``init_weights``.

    Attributes:
        identity: Hash of the pre-trained tensors, or ``'random'``.
        embed_dims: Width C of the last block.
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
        form: How the blocks run where their weights do not show it; a delta names it.
        frozen_dtype: What the frozen parameters are held in.
        with_cp: Whether the backward pass runs each block again instead of keeping what happens
            in it; set by the backbone.
        mean: Channel means that the weights expect, in 0..1.
        std: Channel deviations that the weights expect, in 0..1.
    """

    identity: str
    embed_dims: int
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
        places: BlockPlaces,
        tap_indices: Collection[int],
        grid: tuple[int, int] | None = None,
    ) -> dict[int, Tensor]:
        """Run the blocks up to the last tap.

        Args:
            tokens: From `embed`.
            places: Acts at the named places of every block.
            tap_indices: Outputs that are wanted: blocks (ViT) or stages (Swin).
            grid: (h, w) from `embed`; a ViT with windows needs it.

        Returns:
            Each tapped output, with whatever tokens the places added.
        """

    @abstractmethod
    def stop_after(self, output: int) -> None:
        """Count no block behind an output: it does not run, so nothing is to be built for it."""

    def running_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that have a part in the outputs up to `stop_after`'s."""
        idle = {id(p) for module in self.idle_modules() for p in module.parameters()}
        return [p for p in self.parameters() if id(p) not in idle]

    @abstractmethod
    def idle_modules(self) -> list[nn.Module]:
        """Return what does not run because of `stop_after`."""

    @abstractmethod
    def final_norm(self, tokens: Tensor) -> Tensor:
        """Apply the norm after the last block to tokens (..., C)."""

    @abstractmethod
    def pool(self, tokens: Tensor) -> Tensor:
        """Average the tokens of an output, but for the prefix tokens; returns (B, C)."""

    @abstractmethod
    def to_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Arrange the patches of an output as a map (B, C, h, w)."""

    @abstractmethod
    def token_parameters(self) -> list[nn.Parameter]:
        """Return prefix tokens and position embeddings, for the optimiser's decay rule."""

    @abstractmethod
    def block(self, index: int) -> nn.Module:
        """Return a block by its number in the whole trunk."""

    def block_norms(self, index: int) -> list[nn.Module]:
        """Return the norms at the entries of attention and MLP of block ``index``."""
        return [self.block(index).norm1, self.block(index).norm2]

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
