"""The arguments of `snnrun train` before Hydra reads them: the flags of Hydra come first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from snnrun.config.paths import at_home

# Hydra's flags that take a value.
INFO = {"--info", "-i"}
INFO_ABOUT = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")  # it may name one of them
VALUED = {"--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--cfg", "-c", "--package", "-p"}


def ordered(arguments: Sequence[str]) -> list[str]:
    """The arguments with the flags and their values first: Hydra takes no override after a flag that stands among them.

    A `~` that no shell has expanded, as in `data.root=~/corpora`, is expanded here.
    """
    flags, rest = [], []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if not argument.startswith("-"):
            rest.append(at_home(argument))
            continue
        flags.append(argument)
        if argument in INFO:  # its value may be left out; an override is not its value
            flags.append(waiting.pop(0) if waiting and waiting[0] in INFO_ABOUT else "all")
        elif argument in VALUED and waiting:
            flags.append(waiting.pop(0))
    return [*flags, *rest]


def swept_launchers(arguments: Sequence[str]) -> list[str]:
    """Warnings about swept experiments that set Hydra's launcher: Hydra chooses it before it reads their files."""
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
