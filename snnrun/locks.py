"""Locks on files and folders. Each ends with the process that holds it, however the process ends."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


def take(handle: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file or folder until it is closed. Without `wait`: False if another process holds it.

    Raises OSError if it cannot be locked, as on some network mounts.
    """
    try:
        import fcntl
    except ImportError:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP)) from None
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def of_folder(folder: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a folder, once it is free. Without `wait`, False says that another process holds it.

    A folder that does not exist or cannot be locked counts as free.
    """
    free = True
    with ExitStack() as stack:
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            free = take(handle, shared=shared, wait=wait)
        yield free


@contextmanager
def of_file(path: Path) -> Iterator[None]:
    """Hold the lock of a file, once it is free; it is made if it is not there.

    A file that cannot be made or locked counts as free.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            stack.callback(os.close, handle)
            take(handle, wait=True)
        yield
