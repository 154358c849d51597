"""The version of hstpeft, read by setup.py."""

__version__ = '0.4.0'
