"""hstpeft: parameter-efficient tuning of vision transformers inside OpenMMLab."""

from hstpeft.version import __version__

__all__ = ['__version__']
