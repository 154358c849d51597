"""Names of the official implementations' checkpoints, and ours: one file per system."""

from hstpeft.official.arc import join_arc, split_arc
from hstpeft.official.common import SWIN, TRUNK
from hstpeft.official.hst import hst_depths, hst_names, join_hst, split_hst
from hstpeft.official.hvt import join_hvt, split_hvt
from hstpeft.official.memory_tokens import join_memory_tokens, split_memory_tokens
from hstpeft.official.sa2vp import join_sa2vp, split_sa2vp

__all__ = [
    'SWIN',
    'TRUNK',
    'hst_depths',
    'hst_names',
    'join_arc',
    'join_hst',
    'join_hvt',
    'join_memory_tokens',
    'join_sa2vp',
    'split_arc',
    'split_hst',
    'split_hvt',
    'split_memory_tokens',
    'split_sa2vp',
]
