"""The side network of Hierarchical Side-Tuning."""

from hstpeft.models.side.network import SideNetwork
from hstpeft.models.side.stem import STEM_NORMS

__all__ = ['STEM_NORMS', 'SideNetwork']
