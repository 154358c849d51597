"""The delta: everything that training may change. Pure functions on modules and state dicts."""

from hstpeft.delta.files import describe, load_checkpoint, make_delta, save_delta
from hstpeft.delta.fingerprint import RANDOM, fingerprint
from hstpeft.delta.ownership import freeze_all_but, owner_table
from hstpeft.delta.state import check_state_dict, install_state_hooks, list_differences

__all__ = [
    'RANDOM',
    'check_state_dict',
    'describe',
    'fingerprint',
    'freeze_all_but',
    'install_state_hooks',
    'list_differences',
    'load_checkpoint',
    'make_delta',
    'owner_table',
    'save_delta',
]
