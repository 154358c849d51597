"""What a tuner is to the backbone.

Shapes: B batch, M extra tokens in front, P prefix tokens, N = h * w patches, C trunk width,
H W pixels, h w grid.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from hstpeft.errors import UserError
from hstpeft.models.trunks import Trunk


class Tuner(nn.Module, ABC):
    """Learns on top of a trunk and acts at the places of its block loop.

    The constructor only takes options; `attach` builds the parameters from what the trunk
    declares. The tuner's own parameters are trainable, and so are the trunk's that
    `trunk_parameters` returns. An override of a place returns the changed tokens.

    Attributes:
        num_extra_tokens: Tokens M that the tuner keeps in front of the trunk's.
        pixel_multiple: Image sides must be multiples of this, on top of the patch.
        strides: Strides of the maps that the tuner makes itself (side network); empty for a
            tuner whose outputs are the trunk's tokens.
    """

    num_extra_tokens: int = 0
    pixel_multiple: int = 1
    strides: tuple[int, ...] = ()

    @abstractmethod
    def attach(self, trunk: Trunk) -> None:
        """Build the parameters for this trunk; called once, by the backbone."""

    @abstractmethod
    def trunk_parameters(self, trunk: Trunk) -> list[nn.Parameter]:
        """Return the trunk parameters that the method trains."""

    def token_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are tokens, for the optimiser's decay rule."""
        return []

    def tap_indices(self, trunk: Trunk) -> tuple[int, ...]:
        """Return the blocks whose outputs the tuner reads; by default none."""
        return ()

    def before_block(self, index: int, tokens: Tensor) -> Tensor:
        """Change the tokens (B, M + P + N, C) at the entry of block ``index``."""
        return tokens

    def maps(
        self, image: Tensor, taps: dict[int, Tensor], grid: tuple[int, int], num_prefix_tokens: int
    ) -> list[Tensor]:
        """Make the tuner's own maps (B, D, H / stride, W / stride), if it has `strides`.

        Args:
            image: (B, 3, H, W), padded.
            taps: Outputs (B, M + P + N, C) of the blocks of `tap_indices`.
            grid: (h, w).
            num_prefix_tokens: P.
        """
        raise NotImplementedError

    def merge(self, trunk: Trunk) -> None:
        """Fold the tuner into the trunk's weights, in place.

        Raises:
            UserError: The method cannot be folded.
        """
        raise UserError(
            f'{type(self).__name__} cannot be merged into the trunk: it adds computation that no '
            'weight of the trunk can express; deploy the delta beside the trunk (tools/delta.py '
            'export)'
        )
