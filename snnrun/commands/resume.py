"""`snnrun resume`: the command. `run.resume` decides what may change."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snnrun.record.run_folder import RunFolder

from snnrun.commands import ranks
from snnrun.config.paths import folder
from snnrun.display.verbosity import as_told


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    with as_told(arguments) as rest:
        return ranks.led(rest, partial(_resume, rest))


def _resume(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "snnrun resume",
        description="Go on with a run that was killed, interrupted or failed, bit for bit, from its last checkpoint.",
        epilog="What may change: hardware.*, tracking.*, checkpoint.*, outputs, data.root, data.download, "
        "train.patience, and train.epochs "
        "where the learning rate does not follow it (train.schedule other than cosine and onecycle, train.average "
        "other than swa).",
    )
    parser.add_argument("run", help="its folder, or the beginning of its name or MLflow id, or last")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as data.root=FOLDER")
    parser.add_argument("--outputs", type=folder, default=Path("outputs"), help="the folder that the runs wrote to")
    request = parser.parse_intermixed_args(arguments)
    from snnrun import tracking
    from snnrun.config import failures
    from snnrun.record import run_folder, run_lock

    found = run_folder.find(request.run, request.outputs)
    with run_lock.alone(found.path):
        try:
            settings = found.values()
            tracking.get_ready(settings["tracking"]["kind"], Path(settings["outputs"]), settings["tracking"]["uri"])
            _go_on(found, request.overrides, ["snnrun", "resume", *arguments])
        except Exception as error:
            return failures.report(error, request.overrides)
    return 0


def _go_on(found: RunFolder, overrides: list[str], command: list[str]) -> None:
    """Go on with a run. Its config, journal and error stay as they are until every check has passed."""
    from snnrun.config import failures
    from snnrun.record import names
    from snnrun.run import experiment, resume
    from snnrun.sweep import worker

    values = resume.prepare(found, overrides)
    began = False

    def begin() -> None:
        nonlocal began
        if values != found.values():
            found.save(values)
        (found.path / names.ERROR).unlink(missing_ok=True)
        began = True

    try:
        result = experiment.run(values, found.path, command=command, resumed=True, accepted=begin, held=True)
        worker.settle(result)
    except Exception as error:
        if began:
            failures.keep(error, overrides, found.path)
        raise
    worker.settle_point(found.path, result)
