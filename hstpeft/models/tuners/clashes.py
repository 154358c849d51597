"""Which tuners do not go together on one trunk, in words."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import nn

from hstpeft.errors import UserError
from hstpeft.models.trunks import Trunk
from hstpeft.models.tuners.base import Tuner
from hstpeft.models.tuners.frozen import FrozenTuner


class Claim(NamedTuple):
    """What one of several tuners takes of a trunk.

    Attributes:
        part: The tuner, attached.
        layers: What it has put in the place of modules, by their names.
        trained: Parameters inside the trunk that it trains.
    """

    part: Tuner
    layers: Mapping[str, nn.Module]
    trained: Sequence[nn.Parameter]

    @property
    def name(self) -> str:
        """The tuner's, for messages."""
        return type(self.part).__name__


def check_forms(parts: Sequence[Tuner]) -> None:
    """Refuse tuners whose kinds alone do not go together.

    Raises:
        UserError: Names both, and what each of them would do.
    """
    for part in parts:
        if isinstance(part, FrozenTuner):
            raise UserError(
                'backbone.tuner: FrozenTuner has no effect among other tuners: leave it out of the list'
            )
    for one, other in itertools.combinations(parts, 2):
        for does, what in (
            (_has_front_tokens, 'put tokens of their own before the patches'),
            (_makes_maps, 'make maps of their own'),
            (has_own_run, 'run the blocks in a way of their own'),
        ):
            if does(one) and does(other):
                raise _clash(one, other, what)
        for a, b in ((one, other), (other, one)):
            if _makes_maps(a) and has_own_run(b):
                raise UserError(
                    f'backbone.tuner: {type(a).__name__} makes maps of the usual run of the blocks, and '
                    f'{type(b).__name__} runs them in its own way: leave one of them out'
                )


def check_claims(claims: Sequence[Claim], trunk: Trunk) -> None:
    """Refuse tuners that take the same place, layer or parameter of a trunk.

    Args:
        claims: What each tuner takes.
        trunk: As it was before.

    Raises:
        UserError: Names both, and what they share.
    """
    names = {id(parameter): name for name, parameter in trunk.net.named_parameters()}
    places = {id(claim): acting_places(claim.part, trunk) for claim in claims}
    for one, other in itertools.combinations(claims, 2):
        for place in sorted(places[id(one)] & places[id(other)]):
            raise _clash(one.part, other.part, f'act at the place {place} of a block')
        for path in _overlapping(one.layers, other.layers):
            raise _clash(one.part, other.part, f'stand on the layer {path}')
        for parameter in one.trained:
            if any(parameter is theirs for theirs in other.trained):
                what = f"train the trunk's {names.get(id(parameter), 'parameters')}"
                raise _clash(one.part, other.part, what)
    for one, other in itertools.permutations(claims, 2):
        if has_own_run(one.part) and (places[id(other)] or other.layers):
            where = ', '.join(sorted(places[id(other)])) or next(iter(other.layers))
            raise UserError(
                f'backbone.tuner: {one.name} runs the blocks in its own way, in which {other.name} has '
                f'no turn ({where}): leave one of them out'
            )


def has_own_run(part: Tuner) -> bool:
    """Whether a tuner runs the trunk's blocks itself, so that it needs no places."""
    return type(part).run is not Tuner.run


def acting_places(part: Tuner, trunk: Trunk) -> frozenset[str]:
    """Return the places of a block at which a tuner acts."""
    return part.at(trunk.layout(trunk.grid_size, part.num_front_tokens)).acting_places


def _has_front_tokens(part: Tuner) -> bool:
    return part.num_front_tokens > 0


def _makes_maps(part: Tuner) -> bool:
    return len(part.strides) > 0


def _overlapping(one: Mapping[str, nn.Module], other: Mapping[str, nn.Module]) -> Iterator[str]:
    """Yield the places of which one is the other or lies in it, inner ones."""
    for a, b in itertools.product(one, other):
        if f'{a}.'.startswith(f'{b}.') or f'{b}.'.startswith(f'{a}.'):
            yield max(a, b, key=len).partition('.')[2]  # below the trunk's `net`


def _clash(one: Tuner, other: Tuner, what: str) -> UserError:
    names = type(one).__name__, type(other).__name__
    return UserError(
        f'backbone.tuner: {names[0]} and {names[1]} both {what}: leave one of them out, or give them '
        'options that keep them apart'
    )
