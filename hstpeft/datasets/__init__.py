"""Data sets and transforms of hstpeft; importing this registers them.

The classification data sets build on mmpretrain: a user of mmseg or mmdet alone does without.
"""

from importlib.util import find_spec

from hstpeft.datasets.loading import LoadImageFromFile
from hstpeft.datasets.seg_map import CheckSegMap

__all__ = ['CheckSegMap', 'LoadImageFromFile']

if find_spec('mmpretrain'):
    from hstpeft.datasets.drawn.cls_dataset import RenderedShapes
    from hstpeft.datasets.fgvc import FGVC
    from hstpeft.datasets.listed import ListedImages
    from hstpeft.datasets.vtab import VTAB1k

    __all__ += ['FGVC', 'ListedImages', 'RenderedShapes', 'VTAB1k']
