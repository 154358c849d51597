"""A frozen position embedding, resampled to the grids met last."""

from torch import Tensor

from hstpeft.compat import version


class PositionCache:
    """Resampled position embeddings by grid.

    Multi-scale training meets hundreds of grids, so only some are kept. A copy of a cache is
    empty: it would not notice that the copied embedding changes.
    """

    max_grids = 16

    def __init__(self) -> None:
        self._source: tuple | None = None
        self._by_grid: dict[tuple[int, int], Tensor] = {}

    def __reduce__(self) -> tuple:
        """Copy and pickle as a new cache."""
        return type(self), ()

    def get(self, own: Tensor, grid: tuple[int, int]) -> Tensor | None:
        """Return what was put in for a grid, if ``own`` is still what it was made from."""
        if not self._is_of(own):
            self._by_grid.clear()
        position = self._by_grid.pop(grid, None)
        if position is not None:
            self._by_grid[grid] = position  # now the last met
        return position

    def put(self, own: Tensor, grid: tuple[int, int], position: Tensor) -> None:
        """Keep a position embedding, and forget the one whose grid was met longest ago."""
        self._source = (own, *_state(own))
        self._by_grid[grid] = position
        if len(self._by_grid) > self.max_grids:
            del self._by_grid[next(iter(self._by_grid))]

    def _is_of(self, own: Tensor) -> bool:
        return bool(self._source) and self._source[0] is own and self._source[1:] == _state(own)


def _state(tensor: Tensor) -> tuple:
    """Tell whether a tensor changed; the version counts changes in place."""
    return tensor.device, tensor.dtype, version(tensor)
