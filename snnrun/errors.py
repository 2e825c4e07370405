"""Errors that end a command with a message instead of a traceback."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable

INTERRUPTED = 130  # the exit code after Ctrl-C
_REFUSED = "DefaultCPUAllocator: "  # the beginning of PyTorch's message when it gets no memory


class SnnrunError(Exception):
    """A failure at run time that the user can do something about: a missing corpus, a damaged file, a NaN.

    The text is shown unchanged, so it says what is wrong and what to do.
    """

    exit_code = 1

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


class UsageError(SnnrunError):
    """A wrong request: a key, a value or a combination that cannot work."""

    exit_code = 2


def printable(text: str) -> str:
    """The text, with bytes of file names that are not UTF-8 written as \\xe9, since no terminal or file takes them."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def first_line(error: BaseException, otherwise: str | None = None) -> str:
    """The first line of an error's message. If it has no message: `otherwise`, or without that the error's type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__ if otherwise is None else otherwise


def describe(error: Exception) -> str:
    """The one message for an error of any kind."""
    if isinstance(error, SnnrunError):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}. Runs go to another folder by outputs=FOLDER."
    if isinstance(error, MemoryError) or "memory" in type(error).__name__.lower() or _REFUSED in str(error):
        what = first_line(error, "no more is given").rpartition(_REFUSED)[2]
        return f"out of memory ({what}). Lower train.batch_size, encoder.steps or model.network."
    return f"unexpected {type(error).__name__}: {first_line(error, '')} (set HYDRA_FULL_ERROR=1 for the traceback)"


def warn(text: str) -> None:
    """Print a warning on standard error. The command goes on."""
    print(f"snnrun: warning: {text}", file=sys.stderr, flush=True)


def unknown(what: str, word: str, allowed: Iterable[str]) -> str:
    """The message for a word that is not allowed, with the nearest allowed word."""
    names = list(allowed)
    return f"{word}: no such {what}. Allowed: {', '.join(names)}.{did_you_mean(word, names)}"


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """' Did you mean X?' for the nearest spelling of `word`, in upper or lower case, or nothing."""
    folded = {name.casefold(): name for name in reversed(list(allowed))}
    near = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.55)
    return f" Did you mean {folded[near[0]]}?" if near else ""
