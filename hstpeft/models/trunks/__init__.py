"""Pre-trained vision transformers behind one interface."""

from hstpeft.models.trunks.base import Trunk
from hstpeft.models.trunks.vit import ViTTrunk

__all__ = ['Trunk', 'ViTTrunk']
