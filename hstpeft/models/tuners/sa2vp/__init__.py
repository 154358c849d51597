"""Spatially Aligned-and-Adapted Visual Prompts: the tuner, and how it runs each kind of trunk."""

from hstpeft.models.tuners.sa2vp.tuner import SA2VPTuner

__all__ = ['SA2VPTuner']
