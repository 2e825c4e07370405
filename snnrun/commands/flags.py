"""Flags that several commands have, and what they stand for."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from snnrun.errors import SnnrunError, UsageError

JOBLIB = "joblib"
# As `data.parts.PARTS`, which takes longer to import.
PARTS = ("train", "validation", "test")


def add_number(
    parser: argparse.ArgumentParser,
    flag: str,
    least: int = 1,
    most: int | None = None,
    metavar: str = "N",
    **rest: Any,
) -> None:
    """Add a flag that takes a whole number from `least` to `most`. Parsing raises UsageError for another text."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            raise UsageError(
                f"{flag} {text}: a whole number from {least} {'up' if most is None else f'to {most}'} is needed."
            )
        return int(text)

    parser.add_argument(flag, type=read, metavar=metavar, **rest)


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where the points of a command's sweep run."""
    add_number(parser, "--jobs", help="so many runs at once on this machine, by joblib")
    parser.add_argument("--launcher", metavar="NAME", help="hydra/launcher of the sweep, such as submitit_slurm")


def launcher(name: str | None, jobs: int | None) -> list[str]:
    """The arguments of a sweep that these flags stand for. Raises UsageError if they do not fit one another."""
    name = name or (JOBLIB if jobs else "basic")
    if jobs and name != JOBLIB:
        raise UsageError(
            f"--jobs: is for --launcher {JOBLIB}. Say how many {name} runs by its own hydra.launcher keys."
        )
    return [f"hydra/launcher={name}", *([f"hydra.launcher.n_jobs={jobs}"] if jobs else [])]


def write(path: Path, text: str) -> None:
    """Write what --out names, and say so. Raises SnnrunError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SnnrunError(f"{path}: cannot be written ({error.strerror}). Name another file by --out.") from None
    print(path)


def stamp() -> str:
    """Date and time, as names of sweeps begin."""
    return f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{time.time_ns() // 1000 % 10**6:06d}"
