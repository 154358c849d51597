"""The Linears of a block as pieces of the trunk's width.

Shapes: C trunk width.
"""

from collections.abc import Mapping

from hstpeft.models.trunks.layers import BRANCHES, NamedLayers

_FIXED = {'qkv': (1, 3), 'q': (1, 1), 'k': (1, 1), 'v': (1, 1), 'proj': (1, 1)}
"""By role, the pieces that a Linear reads and gives, of those whose are fixed."""


def cut_layers(trunk: NamedLayers, width: int, index: int) -> Mapping[str, tuple[int, int]] | None:
    """Return, by role, how many pieces of width C the Linears of a block read and give.

    Args:
        trunk: Names the Linears.
        width: C.
        index: Number of the block.

    Returns:
        In the order in which they run; None if some are not made of whole pieces, as those of a
        gated MLP are not.
    """
    readers = [trunk.readers(index, branch) for branch in BRANCHES]
    names = [*readers[0], 'proj', *readers[1], 'fc2']
    shapes = {name: tuple(trunk.layer(index, name).weight.shape) for name in names}
    ratio = shapes['fc2'][1] // width
    pieces = {**_FIXED, 'fc1': (1, ratio), 'fc2': (ratio, 1)}
    wanted = {name: (out * width, into * width) for name, (into, out) in pieces.items()}
    fits = all(wanted.get(name) == shape for name, shape in shapes.items())
    return {name: pieces[name] for name in names} if fits else None
