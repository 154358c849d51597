"""Several tuners on one trunk.

Shapes: B batch, H W pixels, D side width, h w grid.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, nn

from hstpeft.errors import UserError
from hstpeft.models.trunks import Places, Trunk
from hstpeft.models.trunks.layout import Layout
from hstpeft.models.tuners.base import Tuner
from hstpeft.models.tuners.clashes import Claim, check_claims, check_forms, has_own_run
from hstpeft.models.tuners.frozen import FrozenTuner
from hstpeft.models.tuners.standing import put, replaced_modules


class CombinedTuner(Tuner):
    """Several methods that do not stand at the same place: ``tuner=[dict(...), dict(...)]``.

    Each part acts at its own places and layers and trains its own parameters, so their order changes
    no output, only the names in a delta (``tuner.parts.0...``). Parts are attached to the trunk as it
    was, one after the other, so that none of them takes for the trunk's what another has put there:
    in ``[HST, SSF]`` HST trains the norms of the blocks and SSF the scales and shifts behind them.

    Refused, with the names of both parts and of what they share: two parts that put tokens before
    the patches, that make maps, that run the blocks in a way of their own, that act at the same
    place of a block, that stand on the same layer, or that train the same parameter of the trunk.

    Trainable values: the sum of the parts'.

    Args:
        parts: Tuners that have not been attached, at least two.

    Raises:
        UserError: Two parts do not go together, or a part has no effect.
    """

    def __init__(self, parts: Sequence[Tuner]) -> None:
        super().__init__()
        assert len(parts) > 1, 'one tuner needs no combination'
        check_forms(parts)
        self.parts = nn.ModuleList(parts)

    @property
    def kind(self) -> str:
        """The parts', in order."""
        return ' + '.join(part.kind for part in self.parts)

    @property
    def needs(self) -> tuple[str, ...]:
        """What any part needs; `check_trunk` names the part."""
        return tuple(dict.fromkeys(need for part in self.parts for need in part.needs))

    @property
    def pixel_multiple(self) -> int:
        """The least common multiple of the parts'."""
        return math.lcm(*(part.pixel_multiple for part in self.parts))

    @property
    def strides(self) -> tuple[int, ...]:
        """Those of the part that makes maps."""
        return self._main.strides

    @property
    def map_dims(self) -> tuple[int, ...]:
        """Those of the part that makes maps."""
        return self._main.map_dims

    @property
    def num_branches(self) -> int:
        """That of the part that runs the blocks in its own way."""
        return self._main.num_branches

    @property
    def num_front_tokens(self) -> int:
        """Those of the part that has some."""
        return sum(part.num_front_tokens for part in self.parts)

    def check_trunk(self, trunk: Trunk) -> None:
        """Refuse a trunk that lacks what a part needs."""
        for part in self.parts:
            part.check_trunk(trunk)

    def attach(self, trunk: Trunk) -> None:
        """Attach each part to the trunk as it was, compare what they claim, and put all in place."""
        for part in self.parts:
            part.with_cp = self.with_cp
        found = {self._main: self._claim(self._main, trunk)}
        if self.strides:  # what the maps do not read does not run, so nothing is built for it
            trunk.stop_after(max(self._main.tap_indices(trunk)), pools=False, norms=False)
        found |= {part: self._claim(part, trunk) for part in self.parts if part not in found}
        claims = [found[part] for part in self.parts]
        check_claims(claims, trunk)
        for claim in claims:
            put(trunk, claim.layers)
        self.trained = [parameter for claim in claims for parameter in claim.trained]
        self.on_layers = tuple(bool(claim.layers) for claim in claims)

    def description(self) -> dict[str, Any]:
        """Return the parts' names and descriptions, in order."""
        parts = [{'type': type(part).__name__, **part.description()} for part in self.parts]
        return {'parts': parts}

    def trunk_parameters(self, trunk: Trunk) -> list[nn.Parameter]:
        """Return what the parts train of the trunk, or have put into it."""
        return list(self.trained)

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the parts'."""
        return [parameter for part in self.parts for parameter in part.own_parameters()]

    def token_parameters(self) -> list[nn.Parameter]:
        """Return the parts'."""
        return [parameter for part in self.parts for parameter in part.token_parameters()]

    def tap_indices(self, trunk: Trunk) -> tuple[int, ...]:
        """Return the outputs that the part that makes maps reads."""
        return self._main.tap_indices(trunk)

    def at(self, layout: Layout) -> Places:
        """Return the parts' places in one."""
        return CombinedPlaces([part.at(layout) for part in self.parts], self.num_front_tokens)

    def run(
        self, trunk: Trunk, tokens: Tensor, grid: tuple[int, int], tap_indices: Collection[int]
    ) -> dict[int, Tensor]:
        """Run the trunk's blocks in the way of the part that has one, else in the usual one."""
        if has_own_run(self._main):
            return self._main.run(trunk, tokens, grid, tap_indices)
        return super().run(trunk, tokens, grid, tap_indices)

    def without_own_tokens(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Take every part's tokens out of an output."""
        for part in self.parts:
            tokens = part.without_own_tokens(tokens, grid)
        return tokens

    def maps(
        self, image: Tensor, taps: dict[int, Tensor], grid: tuple[int, int], num_prefix_tokens: int
    ) -> list[Tensor]:
        """Make the maps of the part that has some."""
        return self._main.maps(image, taps, grid, num_prefix_tokens)

    def merge(self, trunk: Trunk) -> Tuner:
        """Merge every part.

        What stands on a layer goes first: what acts before a branch then folds into plain layers.

        Raises:
            UserError: A part cannot be folded.
        """
        # A part that never can is asked first, while the trunk is as it was.
        order = sorted(
            zip(self.parts, self.on_layers, strict=True),
            key=lambda pair: (type(pair[0]).merge is not Tuner.merge, not pair[1]),
        )
        for part, _ in order:
            part.merge(trunk)
        return FrozenTuner()

    @property
    def _main(self) -> Tuner:
        """The part that makes maps or runs the blocks in its own way; else the first."""
        found = [part for part in self.parts if part.strides or has_own_run(part)]
        return next(iter([*found, *self.parts]))

    def _claim(self, part: Tuner, trunk: Trunk) -> Claim:
        """Attach a part, and take what it has put on layers off again."""
        before = dict(trunk.named_modules())
        try:
            part.attach(trunk)
        except UserError as error:
            raise UserError(f'backbone.tuner {type(part).__name__}: {error}') from error
        layers = replaced_modules(trunk, before)
        trained = part.trunk_parameters(trunk)
        put(trunk, {path: before[path] for path in layers})
        return Claim(part, layers, trained)


class CombinedPlaces(Places):
    """The places of several tuners, of which no two act at the same one.

    Each acting place is that of its part; one at which none acts is the identity that it was.

    Args:
        parts: Places of each tuner, for one pass.
        num_front_tokens: Of all of them.
    """

    def __init__(self, parts: Sequence[Places], num_front_tokens: int) -> None:
        self.parts, self.num_front_tokens = parts, num_front_tokens
        for part in parts:
            for place in part.acting_places:
                setattr(self, place, getattr(part, place))

    @property
    def acting_places(self) -> frozenset[str]:
        """Those of all tuners."""
        return frozenset(place for part in self.parts for place in part.acting_places)
