"""How much is said: chosen by -q and -v, and known to every process of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from snnrun.errors import UsageError

Verbosity = Literal["quiet", "normal", "verbose"]

# In the environment, and no key of the config: it changes nothing that is computed.
VERBOSITY = "SNNRUN_VERBOSITY"
LEVELS: dict[str, Verbosity] = {"-q": "quiet", "--quiet": "quiet", "-v": "verbose", "--verbose": "verbose"}


def verbosity() -> Verbosity:
    """How much is to be said.

    Raises:
        UsageError: the environment variable has another value.
    """
    level = os.environ.get(VERBOSITY) or "normal"
    if level not in ("quiet", "normal", "verbose"):
        raise UsageError(f"{VERBOSITY}={level} in the environment: quiet, normal and verbose are allowed.")
    return level  # type: ignore[return-value]


def without_verbosity(arguments: Sequence[str]) -> tuple[list[str], Verbosity | None]:
    """The arguments without -q, --quiet, -v and --verbose, and which of them was given.

    Raises:
        UsageError: both are given.
    """
    given = {LEVELS[argument] for argument in arguments if argument in LEVELS}
    if len(given) > 1:
        raise UsageError("--quiet, --verbose: give one of them.")
    return [argument for argument in arguments if argument not in LEVELS], next(iter(given), None)


@contextmanager
def as_told(arguments: list[str]) -> Iterator[list[str]]:
    """Have the environment say what -q or -v say, which the processes of a run inherit; gives the other arguments."""
    rest, level = without_verbosity(arguments)
    before = os.environ.get(VERBOSITY)
    os.environ[VERBOSITY] = level or verbosity()
    try:
        yield rest
    finally:
        os.environ.pop(VERBOSITY)
        if before is not None:
            os.environ[VERBOSITY] = before
