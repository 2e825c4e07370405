"""`snnrun doctor`: what this installation can run on and record to, and whether its kernels are right."""

from __future__ import annotations

import argparse
from pathlib import Path

from snnrun.config.paths import expanded, folder
from snnrun.errors import SnnrunError, UsageError


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code, that of a failure if something would make a run fail here."""
    options = _parser().parse_args(arguments)
    if options.json and options.kernels:
        raise UsageError("doctor: --json and --kernels do not go together.")
    from snnrun import tracking
    from snnrun.commands import installation

    uri = options.uri or tracking.usual_uri()
    fine = installation.examine(options.root, options.outputs, uri, as_json=options.json)
    fine = (not options.kernels or installation.check_kernels()) and fine
    return 0 if fine else SnnrunError.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "snnrun doctor",
        description="Say what this installation can run on, which corpora are here, and whether runs can be recorded.",
        epilog="Exit code 1 if something would make a run fail here.",
    )
    parser.add_argument("--kernels", action="store_true", help="check every kernel here against the reference")
    parser.add_argument(
        "--root", type=expanded, help="folder of the corpora, as data.root (default: SNNRUN_DATA, else data/)"
    )
    parser.add_argument("--outputs", type=folder, default=Path("outputs"), help="the folder that runs write to")
    parser.add_argument("--uri", help="the store, if runs are given tracking.uri")
    parser.add_argument("--json", action="store_true", help="for programs; without --kernels")
    return parser
