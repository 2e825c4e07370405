"""Files that are always whole, either old or new, even if the process or the machine stops while one is written."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write(path: Path, content: bytes, before: Path | None = None) -> None:
    """Write a file as a whole, or leave it as it was.

    Args:
        path: the file.
        content: its whole content.
        before: a name in the same folder under which the old file is kept, if the file system has hard links.

    Raises:
        OSError: the disk is full, or the folder cannot be written to. Nothing is left behind then.
    """
    work = path.with_name(f".{path.name}.part")
    try:
        with work.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if before is not None:
            _name(path, before)
        work.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            work.unlink()
        raise
    _sync(path.parent)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file as JSON, in the way of `write`."""
    write(path, json.dumps(value, indent=1).encode())


def _name(path: Path, other: Path) -> None:
    """Make `other` a second name of the file, in place of any file of that name."""
    link = other.with_name(f".{other.name}.part")
    with contextlib.suppress(OSError):
        link.unlink(missing_ok=True)
        os.link(path, link)
        link.replace(other)


def _sync(folder: Path) -> None:
    """Make sure that the new name is on disk, if the file system can do so."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
