"""What the tests of the hosts share."""

from pathlib import Path

import pytest


@pytest.fixture(scope='session')
def shared(tmp_path_factory) -> Path:
    """A folder for data and weights that all leaves read."""
    return tmp_path_factory.mktemp('shared')


@pytest.fixture
def need_host():
    """Skip where a host cannot be imported; mmdet needs mmcv's compiled operators."""
    return lambda host: pytest.importorskip(f'{host}.models', exc_type=ImportError)
