"""Fixtures of every test; what tests call themselves lies in tests/support/."""

import gc
import os
from collections.abc import Iterator

import pytest
import torch
from mmengine.registry import DefaultScope
from yapf.yapflib import yapf_api

from hstpeft.compat import close_loggers
from tests.support import tiny
from tests.support.leaves import VARIABLES
from tests.support.reliability_table import ReliabilityTable

# Tiny tensors: a second thread costs more than it gives, above all beside other processes.
torch.set_num_threads(1)
# Otherwise a warning of torch strikes whichever test comes first, and hides all others.
torch.set_warn_always(True)
# What the user of this shell has chosen; here already, for some tests are made from configs.
for variable in VARIABLES:
    os.environ.pop(variable, None)
# What a test without the marker `slow` may take of the processor; most take a hundredth.
MAX_SECONDS = 10


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our option."""
    text = 'write docs/reliability.md from the outcomes of this run, which should be of all tests'
    parser.addoption('--write-reliability', action='store_true', help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Let a plugin gather outcomes where the option asks for it."""
    if config.getoption('--write-reliability'):
        config.pluginmanager.register(ReliabilityTable())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> object:
    """Keep the fast tier fast; not by the clock, which depends on what else the machine does."""
    before = sum(os.times()[:4])  # of this process and of its children that have ended
    result = yield
    spent = sum(os.times()[:4]) - before
    if spent > MAX_SECONDS and item.get_closest_marker('slow') is None:
        pytest.fail(f'{spent:.0f} s of the processor: make it faster, or mark it `slow`')
    return result


@pytest.fixture(scope='module', autouse=True)
def _quick_collections_of_garbage() -> None:
    """Set aside all that was imported so far: every data set of mmengine asks for a collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session', autouse=True)
def _configs_as_they_are() -> Iterator[None]:
    """Spare the layout of configs, which mmengine makes four times a run: it takes most of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yapf_api, 'FormatCode', lambda text, **style: (text, True))
        yield


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
    close_loggers()


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)
