"""The signals that end a command as Ctrl-C does: all its results so far are kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Ctrl-C; a scheduler before it kills; a terminal that closes; Slurm ahead of a time limit, if it is told so.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@contextmanager
def as_interrupts() -> Iterator[None]:
    """Within this, each signal of `ENDING` raises KeyboardInterrupt.

    A signal that is already handled or ignored (`nohup` ignores SIGHUP) stays so. Only the main thread can set handlers
    in Python. In another thread, as in a notebook, nothing changes.
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
