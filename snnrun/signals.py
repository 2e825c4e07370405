"""The signals that end a command as Ctrl-C does: with all that it has."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Of a scheduler before it kills, of a terminal that is closed, and what Slurm is told to send ahead of a time limit.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@contextmanager
def as_interrupts() -> Iterator[None]:
    """Have each of `ENDING` raise KeyboardInterrupt for as long as this lasts.

    One that something else handles or ignores already (`nohup` ignores SIGHUP) is left to it. Python lets the main
    thread alone set handlers: in another thread, as in a notebook, nothing changes.
    """
    mine = [number for number in ENDING if signal.getsignal(number) == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        mine = []
    for number in mine:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)
