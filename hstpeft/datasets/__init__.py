"""Data sets of hstpeft; importing this registers them."""

from hstpeft.datasets.fgvc import FGVC
from hstpeft.datasets.listed import ListedImages
from hstpeft.datasets.rendered import RenderedShapes
from hstpeft.datasets.vtab import VTAB1k

__all__ = ['FGVC', 'ListedImages', 'RenderedShapes', 'VTAB1k']
