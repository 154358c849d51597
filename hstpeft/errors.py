"""The one exception that means: the user can fix this; its wording, and the checks that raise it most."""

import contextlib
import difflib
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence


class UserError(ValueError):
    """A mistake in a config, a command or a file; names the argument, the value and the remedy.

    The tools print its message as one line and exit with its status.

    Attributes:
        exit_status: 1 for bad input; subclasses have others.
    """

    exit_status = 1


class NonFiniteError(UserError):
    """A loss, a gradient or a weight became NaN or infinite; nothing of it was saved."""

    exit_status = 3


class LostProcessError(UserError):
    """Another process of the job, a rank or a loader worker, died or hangs."""

    exit_status = 4


class InterruptedRun(UserError):
    """A signal asked the run to stop: it has been saved, and `--resume` goes on."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h: try again later


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint for a misspelt name: ``did you mean 'x'?`` or the list of known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f'known: {join_first(known, 20)}'


def join_first(names: Sequence[str], most: int = 3) -> str:
    """List the first of some names for a message, and say how many more there are."""
    rest = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + rest


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Raise unless an option has one of its known values; the message gives the nearest one."""
    if value not in known:
        raise UserError(f'{name} {value!r} is unknown: {nearest(str(value), known)}')


def check_names(name: str, values: str | Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return the names that an option lists; raise unless each is known and stands there once."""
    names = (values,) if isinstance(values, str) else tuple(values)
    for value in names:
        check_choice(name, value, known)
    if not names or len(set(names)) != len(names):
        raise UserError(f'{name} {names} must name at least one of {tuple(known)}, each once')
    return names


def check_least(name: str, value: float, least: float) -> None:
    """Raise unless a number is at least as large as it must be."""
    if value < least:
        raise UserError(f'{name} {value} must be at least {least}')


def check_rate(name: str, value: float) -> None:
    """Raise unless a rate of dropping is from 0 to below 1."""
    if not 0 <= value < 1:
        raise UserError(f'{name} {value} must be from 0 to below 1')


@contextlib.contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Turn a `UserError` into one line on stderr and its exit status.

    Also one that crossed a loader's worker, which wraps the message in the worker's traceback.
    Set ``HSTPEFT_TRACEBACK=1`` to see where it came from. Ctrl-C is a line too.

    Args:
        program: What the line starts with.
    """
    try:
        yield
    except UserError as error:
        if os.environ.get('HSTPEFT_TRACEBACK') == '1':
            raise
        message = str(error).rpartition(f'{UserError.__module__}.UserError: ')[2].strip()
        print(f'{program}: error: {" ".join(message.split())}', file=sys.stderr)
        raise SystemExit(error.exit_status) from None
    except KeyboardInterrupt:  # outside a training, which saves itself
        print(f'{program}: interrupted, there was nothing to save', file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
