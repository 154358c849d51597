"""Fixtures of every test."""

from collections.abc import Iterator

import pytest
import torch
from mmengine.registry import DefaultScope

# Tiny tensors: a second thread costs more than it gives, above all beside other processes.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_scope_left_behind() -> Iterator[None]:
    """Forget the scope of a host's run: under it, types without a prefix mean its own."""
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)
