"""The tiny task of these tests."""

import pytest

from tests.support import tiny


@pytest.fixture(scope='session')
def trained(tmp_path_factory) -> tiny.Run:
    """A finished training, shared by the whole session: read it, never change it."""
    return tiny.trained(tmp_path_factory.getbasetemp())


@pytest.fixture(scope='session')
def task(trained) -> tiny.Task:
    """The task of that training."""
    return trained.task


@pytest.fixture(autouse=True)
def _fresh_logger() -> None:
    """Close mmengine's loggers: they hold the captured stream of the test before."""
    tiny.close_loggers()
