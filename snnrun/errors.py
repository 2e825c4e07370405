"""What ends a run with a message instead of a traceback."""

from __future__ import annotations


class SnnrunError(Exception):
    """A failure at run time that the user can do something about: a missing corpus, a damaged file, a NaN.

    The text is shown as it is, so it names what is wrong and what to do.
    """

    exit_code = 1


class UsageError(SnnrunError):
    """A wrong request: a key, a value or a combination that cannot work."""

    exit_code = 2
