"""What fills ``model.backbone`` in a host."""

from hstpeft.models.backbones.tuned import TunedBackbone

__all__ = ['TunedBackbone']
