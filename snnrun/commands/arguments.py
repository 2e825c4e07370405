"""The arguments of `snnrun train` before Hydra reads them: its own flags taken out, Hydra's put first."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

from snnrun.errors import UsageError

Verbosity = Literal["quiet", "normal", "verbose"]

# For all that speaks, in whatever process of the run: not a key of the config, for it changes nothing that is computed.
VERBOSITY = "SNNRUN_VERBOSITY"
LEVELS: dict[str, Verbosity] = {"-q": "quiet", "--quiet": "quiet", "-v": "verbose", "--verbose": "verbose"}
# Hydra's flags that take a value.
INFO = {"--info", "-i"}
INFO_ABOUT = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")  # of which it may name one
VALUED = {"--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--cfg", "-c", "--package", "-p"}


def ordered(arguments: Sequence[str]) -> list[str]:
    """The arguments with flags and their values first: Hydra takes no override that comes after one among them.

    A `~` that no shell has expanded is, as in `data.root=~/corpora`.
    """
    flags, rest = [], []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if not argument.startswith("-"):
            rest.append(at_home(argument))
            continue
        flags.append(argument)
        if argument in INFO:  # its value may be left out, and no override is taken for it
            flags.append(waiting.pop(0) if waiting and waiting[0] in INFO_ABOUT else "all")
        elif argument in VALUED and waiting:
            flags.append(waiting.pop(0))
    return [*flags, *rest]


def at_home(argument: str) -> str:
    """An override with the home folder in place of the `~` that a value begins with, quoted as Hydra takes it."""
    key, equals, text = argument.partition("=")
    if not equals or not text.startswith("~"):
        return argument
    values = [value if value == (full := expanded(value)) else quoted(full) for value in text.split(",")]
    return f"{key}={','.join(values)}"


def quoted(text: str) -> str:
    """A text as a value of an override that Hydra reads as it is."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def folder(text: str) -> Path:
    """A path given to a command; a `~` that no shell has expanded, as in --outputs=~/runs, means the home folder."""
    return Path(expanded(text))


def expanded(text: str) -> str:
    """A path with the home folder in place of the `~` that it begins with; as it is where there is no such folder."""
    if text.startswith("~"):
        with contextlib.suppress(RuntimeError):
            return str(Path(text).expanduser())
    return text


def without_verbosity(arguments: Sequence[str]) -> tuple[list[str], Verbosity | None]:
    """The arguments without -q, --quiet, -v and --verbose, and which of them was given.

    Raises:
        UsageError: both are given.
    """
    given = {LEVELS[argument] for argument in arguments if argument in LEVELS}
    if len(given) > 1:
        raise UsageError("--quiet, --verbose: give one of them.")
    return [argument for argument in arguments if argument not in LEVELS], next(iter(given), None)


def swept_launchers(arguments: Sequence[str]) -> list[str]:
    """Warnings about experiments of a sweep that set Hydra's launcher: it is chosen before they are read."""
    folders = [Path(value) for flag, value in pairwise(arguments) if flag in ("--config-dir", "-cd")]
    names = [
        name
        for argument in arguments
        if argument.startswith("experiment=") and "," in argument
        for name in argument.partition("=")[2].split(",")
    ]
    files = [folder / "experiment" / f"{name}.yaml" for name in names for folder in folders]
    return [
        f"{file}: hydra/launcher has no effect in an experiment that is swept over. Give it on the command line."
        for file in files
        if file.is_file() and re.search(r"^\s*-?\s*override\s+/?hydra/launcher\s*:", file.read_text("utf-8"), re.M)
    ]


def verbosity() -> Verbosity:
    """How much is to be said.

    Raises:
        UsageError: the environment variable has another value.
    """
    level = os.environ.get(VERBOSITY) or "normal"
    if level not in ("quiet", "normal", "verbose"):
        raise UsageError(f"{VERBOSITY}={level} in the environment: quiet, normal and verbose are allowed.")
    return level  # type: ignore[return-value]
