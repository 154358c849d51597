"""A delta of a toy model, and both formats it is written in."""

from typing import Any

from torch import Tensor

from hstpeft.delta import make_delta
from tests.support.models import build, classifier_config

SUFFIXES = ['.pth', '.safetensors']


def delta(seed: int = 0) -> dict[str, Any]:
    """Make a delta with metadata."""
    state = build(classifier_config(), seed=seed).state_dict()
    meta = {'epoch': 3, 'dataset_meta': {'classes': ('cat', 'dog')}}
    return make_delta({'state_dict': state, 'meta': meta})


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Raise unless two deltas hold the same."""
    assert a['meta'] == b['meta']
    assert a['state_dict'].keys() == b['state_dict'].keys()
    for key, value in b['state_dict'].items():
        given: Tensor = a['state_dict'][key]
        assert given.dtype == value.dtype and given.equal(value), key
