"""Heads that the hosts lack."""

from hstpeft.models.heads.hma import HMAClsHead
from hstpeft.models.heads.memory_attention import MemoryAttention
from hstpeft.models.heads.memory_queue import MemoryQueue
from hstpeft.models.heads.two_branch import TwoBranchClsHead

__all__ = ['HMAClsHead', 'MemoryAttention', 'MemoryQueue', 'TwoBranchClsHead']
