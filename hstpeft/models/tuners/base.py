"""What a tuner is to the backbone.

Shapes: B batch, P prefix tokens, N = h * w patches, L tokens, C trunk width, H W pixels, h w grid.
Tokens are (B, L, C) in a ViT and (B, h, w, C) in a Swin.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection

from torch import Tensor, nn

from hstpeft.errors import UserError
from hstpeft.models.trunks import Trunk


class Tuner(nn.Module, ABC):
    """Learns on top of a trunk and acts at the places of its block loop.

    The constructor only takes options; `attach` builds the parameters from what the trunk
    declares. `own_parameters` are trainable, and so are the trunk's that `trunk_parameters`
    returns. An override of a place returns the changed tokens.

    Attributes:
        trunk_types: Trunks that the method is defined for.
        pixel_multiple: Image sides must be multiples of this, on top of the trunk's own.
        strides: Strides of the maps that the tuner makes itself (side network); empty for a
            tuner whose outputs are the trunk's tokens.
        map_dims: Width of each of these maps.
        num_front_tokens: Tokens that `before_block` puts in front of the trunk's.
        with_cp: Whether the backward pass runs the tuner's own blocks again instead of keeping
            what happens in them; set by the backbone before `attach`.
        num_branches: Sequences that `run` returns, stacked over the batch, the image's first.
    """

    trunk_types: tuple[type[Trunk], ...] = (Trunk,)
    pixel_multiple: int = 1
    strides: tuple[int, ...] = ()
    map_dims: tuple[int, ...] = ()
    num_front_tokens: int = 0
    with_cp: bool = False
    num_branches: int = 1

    @property
    def kind(self) -> str:
        """What a delta calls the function it was trained for; by default the class."""
        return type(self).__name__

    @abstractmethod
    def attach(self, trunk: Trunk) -> None:
        """Build the parameters for this trunk; called once, by the backbone."""

    @abstractmethod
    def trunk_parameters(self, trunk: Trunk) -> list[nn.Parameter]:
        """Return the trunk parameters that the method trains."""

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the tuner's parameters that are trained: by default all."""
        return list(self.parameters())

    def token_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are tokens, for the optimiser's decay rule."""
        return []

    def tap_indices(self, trunk: Trunk) -> tuple[int, ...]:
        """Return the outputs of the trunk that the tuner reads; by default none."""
        return ()

    def run(
        self,
        trunk: Trunk,
        tokens: Tensor,
        grid: tuple[int, int],
        tap_indices: Collection[int],
    ) -> dict[int, Tensor]:
        """Run the trunk's blocks; a method that runs them in another way overrides this.

        Args:
            trunk: The trunk that the tuner was attached to.
            tokens: From ``trunk.embed``.
            grid: (h, w).
            tap_indices: Outputs that are wanted.

        Returns:
            Each tapped output.
        """
        return trunk.run(tokens, self, tap_indices, grid)

    def before_block(self, index: int, tokens: Tensor) -> Tensor:
        """Change the residual stream at the entry of block ``index``."""
        return tokens

    def before_attention(self, index: int, tokens: Tensor) -> Tensor:
        """Change the normalised input of the attention of block ``index``."""
        return tokens

    def before_mlp_norm(self, index: int, tokens: Tensor) -> Tensor:
        """Change the residual stream between attention and second norm of block ``index``."""
        return tokens

    def before_mlp(self, index: int, tokens: Tensor) -> Tensor:
        """Change the normalised input of the MLP of block ``index``."""
        return tokens

    def after_block(self, index: int, tokens: Tensor) -> Tensor:
        """Change the residual stream at the exit of block ``index``."""
        return tokens

    def maps(
        self, image: Tensor, taps: dict[int, Tensor], grid: tuple[int, int], num_prefix_tokens: int
    ) -> list[Tensor]:
        """Make the tuner's own maps (B, D, H / stride, W / stride), if it has `strides`.

        Args:
            image: (B, 3, H, W), padded.
            taps: Outputs of the blocks of `tap_indices`.
            grid: (h, w).
            num_prefix_tokens: P.
        """
        raise NotImplementedError

    def merge(self, trunk: Trunk) -> 'Tuner':
        """Fold the tuner into the trunk's weights, in place.

        Returns:
            The tuner to go on with: one that changes nothing.

        Raises:
            UserError: The method cannot be folded.
        """
        raise UserError(
            f'{type(self).__name__} cannot be merged into the trunk: it adds computation that no '
            'weight of the trunk can express; deploy the delta beside the trunk (tools/delta.py '
            'export)'
        )
