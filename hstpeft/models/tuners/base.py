"""What a tuner is to the backbone.

Shapes: B batch, P prefix tokens, N = h * w patches, L tokens, C trunk width, H W pixels, h w grid.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from hstpeft.errors import UserError
from hstpeft.models.trunks import CAPABILITIES, Places, Trunk
from hstpeft.registry import MODELS


class Tuner(Places, nn.Module, ABC):
    """Learns on top of a trunk and acts at the places of its blocks.

    The constructor only takes options; `attach` builds the parameters from what the trunk
    declares. `own_parameters` are trainable, and so are the trunk's that `trunk_parameters`
    returns.

    Attributes:
        needs: Capabilities that the method needs of a trunk, of `CAPABILITIES`.
        pixel_multiple: Image sides must be multiples of this, on top of the trunk's own.
        strides: Strides of the maps that the tuner makes itself (side network); empty for a
            tuner whose outputs are the trunk's tokens.
        map_dims: Width of each of these maps.
        with_cp: Whether the backward pass runs the tuner's own blocks again instead of keeping
            what happens in them; set by the backbone before `attach`.
        num_branches: Sequences that `run` returns, stacked over the batch, the image's first.
    """

    needs: tuple[str, ...] = ()
    pixel_multiple: int = 1
    strides: tuple[int, ...] = ()
    map_dims: tuple[int, ...] = ()
    with_cp: bool = False
    num_branches: int = 1

    @property
    def kind(self) -> str:
        """What messages call the function that a delta was trained for; by default the class."""
        return type(self).__name__

    def check_trunk(self, trunk: Trunk) -> None:
        """Refuse a trunk that lacks what the method needs.

        Raises:
            UserError: Names the missing capability.
        """
        check_needs(self, trunk, self.needs)

    @abstractmethod
    def attach(self, trunk: Trunk) -> None:
        """Build the parameters for this trunk; called once, by the backbone."""

    def description(self) -> dict[str, Any]:
        """Return what decides the function beside the tensors, for the identity of a delta.

        Plain values by name, as they are after `attach`; options that only act in training
        (dropout) stay out. What is falsy is left out of the identity, so a later option whose
        neutral value is falsy leaves the identity of older deltas alone.
        """
        return {}

    def trunk_parameters(self, trunk: Trunk) -> list[nn.Parameter]:
        """Return the trunk parameters that the method trains; by default none."""
        return []

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
        """Run the trunk's blocks.

        A method that runs them in another way overrides this; one whose places need to know the
        grid overrides `at`.

        Args:
            trunk: The trunk that the tuner was attached to.
            tokens: From ``trunk.embed``.
            grid: (h, w).
            tap_indices: Outputs that are wanted.

        Returns:
            Each tapped output.
        """
        places = self.at(trunk.layout(grid, self.num_front_tokens))
        return trunk.run(tokens, places, tap_indices, grid)

    def without_own_tokens(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Take the tuner's tokens out of an output that shall be a map or the trunk's tokens.

        Only for tokens that stand before the patches; an average over the tokens includes them.

        Args:
            tokens: A tapped output.
            grid: (h, w) of that output.
        """
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


def check_needs(tuner: Tuner, trunk: Trunk, needs: Collection[str], remedy: str = '') -> None:
    """Raise unless a trunk has what a tuner needs.

    Args:
        tuner: For the message.
        trunk: What the tuner shall be attached to.
        needs: Of `CAPABILITIES`.
        remedy: What to do about it; by default, to take another trunk.

    Raises:
        UserError: Names the missing capability.
    """
    for need in needs:
        if need not in trunk.capabilities:
            raise UserError(
                f'backbone.tuner {type(tuner).__name__} is not defined for a '
                f'{type(trunk).__name__}{trunk.form}: it needs {CAPABILITIES[need]} ({need}); '
                + (remedy or f'use {_trunks_with(needs)}')
            )


def check_float32(tuner: str, trunk: Trunk, reason: str) -> None:
    """Raise unless a trunk is held in float32.

    Args:
        tuner: Who asks for it, with the option if it is one.
        trunk: What the tuner shall be attached to.
        reason: Why another dtype does not do.

    Raises:
        UserError: It is held in another dtype.
    """
    if trunk.frozen_dtype != torch.float32:
        dtype = str(trunk.frozen_dtype).removeprefix('torch.')
        raise UserError(
            f"trunk.dtype {dtype!r} does not go with {tuner}: {reason}; use 'float32' "
            '(tools/train.py --amp or --bf16 computes in half precision)'
        )


def _trunks_with(needs: Collection[str]) -> str:
    """Name the trunks that have some capabilities."""
    kinds = [kind for kind in MODELS.module_dict.values() if issubclass(kind, Trunk)]
    named = [kind for kind in kinds if set(needs) <= kind.capabilities]
    return ' or '.join(f'hstpeft.{kind.__name__}' for kind in named) or 'another trunk'
