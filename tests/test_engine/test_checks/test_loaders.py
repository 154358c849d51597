"""What the loss of a loader's worker is explained with."""

import queue

import pytest

from hstpeft.engine.checks.loaders import batches_explained
from hstpeft.errors import LostProcessError

VANISHED = 'DataLoader worker (pid(s) 7) exited unexpectedly'
KILLED = 'DataLoader worker (pid 7) is killed by signal: Killed. '


@pytest.mark.parametrize(
    ('cause', 'words'),
    [
        (queue.Empty(), VANISHED),  # torch raises it from an empty queue, which has no words
        (RuntimeError(KILLED), 'DataLoader worker (pid 7) is killed by signal: Killed'),
        (None, VANISHED),
    ],
)
def test_a_lost_worker_is_told_by_whichever_error_has_words(cause, words):
    with pytest.raises(LostProcessError) as raised, batches_explained():
        raise RuntimeError(VANISHED) from cause
    assert str(raised.value).startswith(f'{words}. If memory ran out')
