"""Files that are either the old ones or the new ones, whole, whenever the process or the machine stops."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write(path: Path, content: bytes, before: Path | None = None) -> None:
    """Give a file its content, or leave it as it was.

    Args:
        path: the file.
        content: all of it.
        before: another name, in the same folder, for what the file is until then, where the file system has such names.

    Raises:
        OSError: the disk is full, or the folder cannot be written to; nothing is left behind then.
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
    """Give a file its content as JSON, as `write` does."""
    write(path, json.dumps(value, indent=1).encode())


def _name(path: Path, other: Path) -> None:
    """Have the other name mean the file too, whatever it meant."""
    link = other.with_name(f".{other.name}.part")
    with contextlib.suppress(OSError):
        link.unlink(missing_ok=True)
        os.link(path, link)
        link.replace(other)


def _sync(folder: Path) -> None:
    """Have the new name on disk, where the file system can say so."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
