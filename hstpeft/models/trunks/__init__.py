"""Pre-trained vision transformers behind one interface."""

from hstpeft.models.trunks.base import CAPABILITIES, Trunk
from hstpeft.models.trunks.eva import EvaTrunk
from hstpeft.models.trunks.hvt import HVTTrunk
from hstpeft.models.trunks.places import PLACES, Places
from hstpeft.models.trunks.swin import SwinTrunk
from hstpeft.models.trunks.vit import ViTTrunk

__all__ = [
    'CAPABILITIES', 'PLACES', 'EvaTrunk', 'HVTTrunk', 'Places', 'SwinTrunk', 'Trunk', 'ViTTrunk',
]  # fmt: skip
