"""The one exception that means: the user can mend this."""

import difflib
from collections.abc import Iterable


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
