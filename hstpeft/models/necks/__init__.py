"""Necks that the hosts lack."""

from hstpeft.models.necks.pooled_norm import PooledNorm

__all__ = ['PooledNorm']
