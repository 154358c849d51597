"""What a trunk is to the rest of hstpeft.

Shapes: B batch, P prefix tokens, N = h * w patches, C trunk width, H W pixels, h w grid.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Protocol

from torch import Tensor, nn


class BlockPlaces(Protocol):
    """The places of the block loop at which a tuner may act; each returns its replacement."""

    def before_block(self, index: int, tokens: Tensor) -> Tensor:
        """Change the tokens (B, P + N, C) at the entry of block ``index``."""


class Trunk(nn.Module, ABC):
    """A pre-trained transformer: knows its shape, embeds images and runs its blocks.

    A plain ``nn.Module``: a host's ``init_weights`` must not find anything to initialise here.
    It loads its weights in its constructor, since the hosts' test paths never call
    ``init_weights``.

    Attributes:
        identity: Hash of the pre-trained tensors, or ``'random'``.
        embed_dims: Width C.
        num_layers: Number of blocks.
        patch_size: Pixels (height, width) of a patch.
        num_prefix_tokens: Tokens P before the patches (class and register tokens).
        mean: Channel means that the weights expect, in 0..1.
        std: Channel deviations that the weights expect, in 0..1.
    """

    identity: str
    embed_dims: int
    num_layers: int
    patch_size: tuple[int, int]
    num_prefix_tokens: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @abstractmethod
    def embed(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Turn an image (B, 3, H, W) into tokens (B, P + N, C) and their grid (h, w)."""

    @abstractmethod
    def run(
        self, tokens: Tensor, places: BlockPlaces, tap_indices: Collection[int]
    ) -> dict[int, Tensor]:
        """Run the blocks up to the last tap.

        Args:
            tokens: (B, P + N, C) from `embed`.
            places: Acts at the named places of every block.
            tap_indices: Blocks whose output is wanted.

        Returns:
            Output of each tapped block, with whatever tokens the places added.
        """

    @abstractmethod
    def final_norm(self, tokens: Tensor) -> Tensor:
        """Apply the norm after the last block to tokens (..., C)."""

    @abstractmethod
    def block_norms(self, index: int) -> list[nn.Module]:
        """Return the norms at the entries of attention and MLP of block ``index``."""

    @abstractmethod
    def hold_frozen(self) -> None:
        """Cast the frozen tensors to the dtype they shall be held in."""
