"""`snnrun report`: one page that compares your runs with the rows of the papers, as Markdown and HTML."""

from __future__ import annotations

import argparse
import re
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snnrun.commands.runs import FILTERS, add_source, chosen, page
from snnrun.config.paths import folder
from snnrun.errors import SnnrunError, UsageError
from snnrun.tracking.address import is_server

FOLDER = "report"  # below the outputs, unless --out says otherwise


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.ui is not None and not is_server(options.ui):
        raise UsageError(
            f"--ui {options.ui}: not an address. Write --ui http://127.0.0.1:5000, where snnrun ui listens."
        )
    out: Path = options.out if options.out is not None else options.outputs / FOLDER
    _, found, notes = chosen(options)
    from snnrun.paper import compare
    from snnrun.runs import collect
    from snnrun.runs.defaults import completed

    parts = compare.build([completed(run) for run in found], collect.history)
    try:
        out.mkdir(parents=True, exist_ok=True)
        written = _write(out, options, parts, _facts(arguments, found), notes)
    except OSError as error:
        raise SnnrunError(f"{out}: the report cannot be written ({error}). Choose another folder by --out.") from None
    for path in written:
        print(path)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "snnrun report",
        description="Write one page that compares the finished runs with the papers' rows, with learning curves.",
        epilog=FILTERS,
    )
    parser.add_argument("filters", nargs="*", metavar="filter")
    add_source(parser)
    parser.add_argument("--out", type=folder, metavar="FOLDER", help="where the page goes (default: OUTPUTS/report)")
    parser.add_argument("--format", choices=("md", "html", "both"), default="both", help="default: both")
    parser.add_argument("--ui", metavar="ADDRESS", help="of MLflow's pages, for links: http://127.0.0.1:5000")
    return parser


def _facts(arguments: Sequence[str], found: Sequence[Any]) -> list[str]:
    from importlib.metadata import version

    count = f"{len(found)} finished run{'s' if len(found) != 1 else ''}"
    made = time.strftime("%Y-%m-%d %H:%M")
    return [f"{count}, {made}, snnrun {version('snnrun')}", shlex.join(["snnrun", "report", *arguments])]


def _write(
    out: Path, options: argparse.Namespace, parts: Sequence[Any], facts: list[str], notes: list[str]
) -> list[Path]:
    from snnrun.paper import pages
    from snnrun.paper.figures import curves

    def link(run: Any) -> pages.Link:
        ui = options.ui or (run.uri if is_server(run.uri) else None)
        return pages.link_of(run, page(run, ui) if ui is not None and run.experiment_id is not None else None, out)

    figures = {part.title: svg for part in parts if (svg := curves(part)) is not None}
    frame = pages.Frame(facts, notes)
    written = []
    if options.format in ("md", "both"):
        names = {title: f"curves_{place}_{_slug(title)}.svg" for place, title in enumerate(figures, 1)}
        for title, name in names.items():
            (out / name).write_bytes(figures[title])
        written.append(out / "report.md")
        written[-1].write_text(pages.markdown(frame, parts, names, link), encoding="utf-8")
    if options.format in ("html", "both"):
        written.append(out / "report.html")
        written[-1].write_text(pages.page(frame, parts, figures, link), encoding="utf-8")
    return written


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")[:40]
