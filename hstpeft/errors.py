"""The one exception that means: the user can mend this."""

import contextlib
import difflib
import os
import sys
from collections.abc import Iterable, Iterator


class UserError(ValueError):
    """A mistake in a config, a command or a file; names the argument, the value and the remedy.

    The tools print its message as one line and exit with status 1.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint for a misspelt name: ``did you mean 'x'?`` or the list of known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    shown = ', '.join(known[:20])
    return f'known: {shown}' + (f' and {len(known) - 20} more' if len(known) > 20 else '')


@contextlib.contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Turn a `UserError` into one line on stderr and exit status 1.

    Also one that crossed a loader's worker, which wraps the message in the worker's traceback.
    Set ``HSTPEFT_TRACEBACK=1`` to see where it came from.

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
        raise SystemExit(1) from None
