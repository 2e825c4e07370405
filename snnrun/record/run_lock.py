"""The lock that shows which process works on a run: on `.running` in its folder. It ends with its holder.

The file names the holder as long as there is one. A holder that ends by itself puts the old text back. The name of a
killed holder stays.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snnrun import locks
from snnrun.errors import SnnrunError, UsageError
from snnrun.record import names

# A process that asks for the state of a run holds its lock for a moment, so try again.
TRIES, PAUSE_S = 5, 0.05


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes away from a run while this one works on it.

    Raises:
        UsageError: another process works on the run.
        SnnrunError: the folder cannot be written to.
    """
    lock = folder / names.RUNNING
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise SnnrunError(f"{lock}: {error.strerror}. Runs go to another folder by outputs=FOLDER.") from None
    try:
        _take(handle, folder)
        before = _read(handle)
        _write(handle, f"process {os.getpid()} on {os.uname().nodename}".encode())
        try:
            yield
        finally:
            _write(handle, before)
    finally:
        os.close(handle)


def at_work(folder: Path) -> bool | None:
    """Whether a process works on the run of a folder.

    None if this cannot be known here: the file system has no locks, or the file names a process of another machine,
    whose lock may not be visible on this one.
    """
    try:
        handle = os.open(folder / names.RUNNING, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        if not locks.take(handle, shared=True):
            return True
        holder = _read(handle).decode(errors="replace")
    except OSError:
        return None
    finally:
        os.close(handle)
    return False if not holder or holder.endswith(f" on {os.uname().nodename}") else None


def holder_of(folder: Path) -> str:
    """`process 123 on host`: the one at work, or the last that was killed. Empty if neither is known."""
    try:
        return (folder / names.RUNNING).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _take(handle: int, folder: Path) -> None:
    with suppress(OSError):  # some network mounts cannot lock
        for _ in range(TRIES):
            if locks.take(handle):
                return
            time.sleep(PAUSE_S)
        holder = _read(handle).decode(errors="replace").strip() or "another process"
        raise UsageError(f"{folder}: {holder} is working on this run. Wait for it, or stop it first.")


def _read(handle: int) -> bytes:
    return os.pread(handle, 200, 0)


def _write(handle: int, text: bytes) -> None:
    with suppress(OSError):
        os.truncate(handle, 0)
        os.pwrite(handle, text, 0)
