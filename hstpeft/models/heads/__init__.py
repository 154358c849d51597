"""Heads that the hosts lack."""

from hstpeft.models.heads.hma import HMAClsHead
from hstpeft.models.heads.memory_attention import MemoryAttention
from hstpeft.models.heads.memory_queue import MemoryQueue

__all__ = ['HMAClsHead', 'MemoryAttention', 'MemoryQueue']
