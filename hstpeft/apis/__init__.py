"""Use hstpeft from Python."""

from hstpeft.apis.deltas import DeltaSwitch
from hstpeft.apis.inference import inference
from hstpeft.apis.model import get_model, init_model, list_models
from hstpeft.apis.publish import publish
from hstpeft.apis.trunks import list_trunks

__all__ = [
    'DeltaSwitch',
    'get_model',
    'inference',
    'init_model',
    'list_models',
    'list_trunks',
    'publish',
]
