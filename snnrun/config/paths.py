"""Paths as they are typed: with a `~` that no shell has expanded, and quoted for Hydra."""

from __future__ import annotations

import contextlib
from pathlib import Path


def folder(text: str) -> Path:
    """A path given to a command. A `~` that no shell has expanded, as in --outputs=~/runs, means the home folder."""
    return Path(expanded(text))


def expanded(text: str) -> str:
    """A path with the home folder in place of a `~` at its beginning. Unchanged if there is no such folder."""
    if text.startswith("~"):
        with contextlib.suppress(RuntimeError):
            return str(Path(text).expanduser())
    return text


def at_home(argument: str) -> str:
    """An override with the home folder in place of a `~` at the beginning of its value, quoted for Hydra."""
    key, equals, text = argument.partition("=")
    if not equals or not text.startswith("~"):
        return argument
    values = [value if value == (full := expanded(value)) else quoted(full) for value in text.split(",")]
    return f"{key}={','.join(values)}"


def quoted(text: str) -> str:
    """A text quoted as the value of an override, so that Hydra reads it unchanged."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
