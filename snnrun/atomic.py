"""Files that are either the old ones or the new ones, whole, whenever the process or the machine stops."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Give a file its content, or leave it as it was.

    Raises:
        OSError: the disk is full, or the folder cannot be written to; nothing is left behind then.
    """
    work = path.with_name(f".{path.name}.part")
    try:
        with work.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        work.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            work.unlink()
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Have the new name on disk, where the file system can say so."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
