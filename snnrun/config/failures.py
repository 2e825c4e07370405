"""A command that fails: its one message, and the traceback in the folder of its run."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from pathlib import Path

from snnrun.config import explain
from snnrun.errors import SnnrunError, UsageError, describe
from snnrun.record import names

TRACEBACKS = "SNNRUN_TRACEBACKS"  # tells the points of a sweep, too, that the user wants tracebacks


class PointFailed(SnnrunError):
    """A point of a sweep has failed. Its message is already printed and in its folder."""


def message(error: Exception, overrides: list[str]) -> tuple[str, int]:
    """The one message for an error, and the exit code."""
    if isinstance(error, SnnrunError):
        return str(error), error.exit_code
    text = explain.explain(error, overrides)
    if text is not None:
        return text, UsageError.exit_code
    return describe(error), SnnrunError.exit_code


def report(error: Exception, overrides: list[str], where: str = "") -> int:
    """Print the message for an error; returns the exit code."""
    if os.environ.get(TRACEBACKS) == "1":
        traceback.print_exception(error)
    text, code = message(error, overrides)
    say(f"{where}{text}")
    return code


def say(text: str) -> None:
    """Print a line on standard error."""
    print(f"snnrun: {text}", file=sys.stderr, flush=True)


def keep(error: Exception, overrides: list[str], folder: Path) -> Path:
    """Write the overrides and the traceback to the folder of the run."""
    file = folder / names.ERROR
    text = f"{' '.join(overrides)}\n\n{''.join(traceback.format_exception(error))}"
    with contextlib.suppress(OSError):  # the disk may be the cause of the failure
        file.write_text(text, encoding="utf-8")
    return file
