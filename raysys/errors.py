"""The error a user can mend. The command prints it without a traceback and exits with 2."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What was given cannot be used: the message says where, what was given, what is allowed and what to do."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return "; did you mean X?" for the allowed name closest to the given one, or an empty string."""
    close = difflib.get_close_matches(given, list(allowed), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
