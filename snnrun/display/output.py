"""Standard output and standard error that never end a command, above all no training, when a text cannot be written.

Within `unfailing` both are `Stream`s, and everything goes through them, whoever prints: this package, rich, a library.
If a reader has gone (`| head`), the disk is full, a stream was closed or an encoding lacks a character, the text is
lost and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class _Nothing(io.TextIOBase):
    """Stands for a stream that is not there."""

    def write(self, text: str) -> int:
        return len(text)


class Stream:
    """A text stream whose `write` and `flush` do not raise; all else is the stream's below.

    `lost` is the first error that cost text, and is told to `aside` when it happens. That the reader of a pipe has gone
    is no loss.
    """

    def __init__(self, below: TextIO | io.TextIOBase, aside: Stream | None = None) -> None:
        self._below, self._aside = below, aside
        self.lost: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)

    def write(self, text: str) -> int:
        """Write what can be: characters that the encoding lacks become question marks."""
        try:
            try:
                self._below.write(text)
            except UnicodeEncodeError:
                encoding = self._below.encoding or "ascii"
                self._below.write(text.encode(encoding, "replace").decode(encoding))
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Hand on what is buffered."""
        try:
            self._below.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def end(self) -> None:
        """Hand on what is buffered; what cannot be is dropped, or Python would try again when it ends, and complain."""
        try:
            self._below.flush()
        except (OSError, ValueError) as error:
            self._lose(error)
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._below.fileno())

    def _lose(self, error: Exception) -> None:
        if self.lost is not None or getattr(error, "errno", None) == errno.EPIPE:
            return
        self.lost = error
        if self._aside is not None:
            reason = getattr(error, "strerror", None) or str(error)
            self._aside.write(f"snnrun: warning: the standard output cannot be written ({reason}): text is lost\n")
            self._aside.flush()


@contextlib.contextmanager
def unfailing() -> Iterator[Stream]:
    """Let neither standard output nor standard error fail meanwhile; gives the standard output. May be nested."""
    if isinstance(sys.stdout, Stream):
        yield sys.stdout
        return
    _open_what_is_closed()
    before = sys.stdout, sys.stderr
    error = Stream(sys.stderr or _Nothing())
    out = Stream(sys.stdout or _Nothing(), aside=error)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, error)
    try:
        yield out
    finally:
        out.end()
        error.end()
        sys.stdout, sys.stderr = before


def _open_what_is_closed() -> None:
    """Have closed descriptors 0 to 2 (`>&-`) lead nowhere: else the next file opened, such as the store, becomes one.

    Whatever writes to the standard output below Python, here or in a process started from here, would write into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            found = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one
            os.set_inheritable(found, True)
