"""Fixtures of every test; what tests call themselves lies in tests/support/."""

from collections.abc import Iterator

import pytest
import torch
from mmengine.registry import DefaultScope

from tests.support import tiny

# Tiny tensors: a second thread costs more than it gives, above all beside other processes.
torch.set_num_threads(1)


@pytest.fixture(scope='session')
def trained(tmp_path_factory) -> tiny.Run:
    """A finished training, shared by the whole session: read it, never change it."""
    return tiny.trained(tmp_path_factory.getbasetemp())


@pytest.fixture
def task(trained) -> tiny.Task:
    """The task of that training."""
    return trained.task


@pytest.fixture(autouse=True)
def _no_scope_left_behind() -> Iterator[None]:
    """Forget the scope of a host's run: under it, types without a prefix mean its own."""
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True)
def _fresh_logger() -> None:
    """Close mmengine's loggers: they hold the captured stream of the test before."""
    tiny.close_loggers()


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)
