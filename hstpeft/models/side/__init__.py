"""The side network of Hierarchical Side-Tuning."""

from hstpeft.models.side.network import SideNetwork

__all__ = ['SideNetwork']
