"""Files that several processes may want to make at once: one makes it, the others wait.

A file gets its name only when it is whole and on disk. While it is made, ``.NAME.lock`` keeps others from making it
too; the work is in ``.NAME.*.part``, which whoever makes the file next removes if its maker was killed. Where files
cannot be locked, several may make the same one, and the last to finish gives it its name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from snnrun import locks
from snnrun.errors import SnnrunError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a disk says that has no room

_SILENCE_S = 3600.0  # a file that nobody has written to for so long is nobody's


@contextmanager
def alone(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Wait until nobody else makes the file, having said once for whom, and let nobody begin.

    Raises SnnrunError if its folder cannot be written to. Does nothing where files cannot be locked.
    """
    lock, told = path.with_name(f".{path.name}.lock"), False
    while True:
        with writing(path):
            file = lock.open("a+b", buffering=0)
        with file:
            with contextlib.suppress(OSError):
                if not locks.take(file.fileno()):
                    if not told:
                        say(f"waiting for {_holder(file)} to make {path}")
                        told = True
                    locks.take(file.fileno(), wait=True)
            if not os.fstat(file.fileno()).st_nlink:
                continue  # whoever held it has removed it: others may hold a new one
            with writing(path):
                file.truncate(0)
                file.write(me().encode())
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    lock.unlink()
            return


@contextmanager
def partial(path: Path) -> Iterator[FileIO]:
    """A file to write to, open for reading too, which is renamed to `path` at the end, or goes if there is an error.

    To have its content on disk by then is up to the caller. Raises SnnrunError if it cannot be made or renamed.
    """
    _remove_leftovers(path)
    work = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}@{platform.node()}.part")
    with writing(path):
        file = work.open("w+b", buffering=0)  # what does not fit is noticed at once, and not again on closing
    try:
        with file:
            with contextlib.suppress(OSError):
                locks.take(file.fileno())  # until it is closed: a sign of life
            yield file
            with writing(path):
                work.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            work.unlink()
        raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a fault of the disk into a message."""
    try:
        yield
    except OSError as error:
        raise fault("write", path, error) from None


def fault(verb: str, path: Path, error: OSError) -> SnnrunError:
    """What to do if a file under the outputs cannot be read or written."""
    remedy = "make room there" if error.errno in FULL else "check its permissions"
    return SnnrunError(
        f"cannot {verb} {path}: {error.strerror or error}; {remedy} or give another folder by outputs=FOLDER"
    )


def me() -> str:
    """This process, for people."""
    return f"process {os.getpid()} on {platform.node()}"


def _holder(lock: FileIO) -> str:
    lock.seek(0)
    return lock.read(200).decode(errors="replace") or "another process"


def _remove_leftovers(path: Path) -> None:
    for work in path.parent.glob(f".{path.name}.*.part"):
        with contextlib.suppress(OSError):
            if _abandoned(work):
                work.unlink()


def _abandoned(work: Path) -> bool:
    """Whether its maker is dead. Locks tell of this machine's processes; of another's they do not everywhere."""
    silent = time.time() - work.stat().st_mtime > _SILENCE_S
    with work.open("r+b", buffering=0) as file:
        try:
            return locks.take(file.fileno()) and (silent or work.name.endswith(f"@{platform.node()}.part"))
        except OSError:
            return silent
