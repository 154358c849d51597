"""Tests of hstpeft. A package, because some wheel installs another top-level ``tests``."""
