"""`snnrun resume`: the command. What it does is in `resume`."""

from __future__ import annotations

import argparse
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        "snnrun resume",
        description="Go on with a run that was killed, interrupted or failed, bit for bit, from its last checkpoint.",
        epilog="What may change: hardware.*, tracking.*, checkpoint.*, data.root, data.download, and train.epochs "
        "where the learning rate does not follow it (train.schedule other than cosine).",
    )
    parser.add_argument("run", help="its folder, or the beginning of its name or MLflow id, or last")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as data.root=FOLDER")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="the folder that the runs wrote to")
    request = parser.parse_intermixed_args(arguments)
    from snnrun import experiment, failures, resume, run_folder, worker

    found = run_folder.find(request.run, request.outputs)
    values = resume.prepare(found, request.overrides)
    (found.path / resume.ERROR_FILE).unlink(missing_ok=True)
    try:
        result = experiment.run(values, found.path, command=["snnrun", "resume", *arguments], resumed=True)
    except Exception as error:
        failures.keep(error, request.overrides, found.path)
        return failures.report(error, request.overrides)
    worker.settle(result)
    resume.settle_point(found.path, result)
    return 0
