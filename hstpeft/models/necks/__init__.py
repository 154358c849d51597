"""Necks that the hosts lack."""

from hstpeft.models.necks.pooled_norm import PooledNorm
from hstpeft.models.necks.simple_feature_pyramid import SimpleFeaturePyramid

__all__ = ['PooledNorm', 'SimpleFeaturePyramid']
