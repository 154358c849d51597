"""Models of hstpeft; importing this registers them.

Heads and classifiers, which need mmpretrain, are imported by themselves (`hstpeft.registry`).
"""

from hstpeft.models import backbones, necks, trunks, tuners
from hstpeft.models.backbones import *  # noqa: F403
from hstpeft.models.necks import *  # noqa: F403
from hstpeft.models.trunks import *  # noqa: F403
from hstpeft.models.tuners import *  # noqa: F403

__all__ = [*backbones.__all__, *necks.__all__, *trunks.__all__, *tuners.__all__]
