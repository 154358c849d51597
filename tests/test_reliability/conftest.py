"""The leaves of trainings that go on."""

from pathlib import Path

import pytest

from tests.support import resuming


@pytest.fixture(scope='session')
def leaves(trained) -> Path:
    """Folder with `resuming`'s leaves beside ``hst_tiny.py``."""
    return resuming.write_leaves(trained.task.folder)
