"""`snnrun ui`: MLflow's pages, with addresses that show what was made: the newest sweep, its charts, a comparison."""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.parse
from collections.abc import Sequence
from typing import Any

from snnrun.commands.runs import FILTERS, add_source, chosen
from snnrun.errors import SnnrunError, UsageError, warn
from snnrun.metric_names import BEST_VALIDATION, TEST_ACCURACY

WHAT = ("last", "compare")
FIGURES = (BEST_VALIDATION, TEST_ACCURACY)
# Without this, MLflow shows what language models need.
MODE = "workflowType=machine_learning"
VIEW_TAG = "mlflow.sharedViewState."  # a tag of an experiment: a view that an address names


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.what not in (None, *WHAT):
        raise UsageError(f"ui {options.what}: allowed are {' and '.join(WHAT)}, or nothing.")
    if options.filters and options.what != "compare":
        raise UsageError(f"ui: filters go with compare, such as: snnrun ui compare {' '.join(options.filters)}")
    from snnrun import tracking

    uri = options.uri or tracking.usual_uri()
    pages = _pages(options)
    opened = next(iter(pages), None) if options.what else None

    def tell(address: str) -> None:
        for title, page in pages.items():
            print(f"  {title:<13} {address}{page}", flush=True)
        if opened is not None and _has_display():
            import webbrowser

            webbrowser.open(address + pages[opened])

    if tracking.is_server(uri):
        print(f"MLflow UI: {uri}", flush=True)
        tell(uri.rstrip("/"))
        return 0
    return tracking.serve(options.outputs, host=options.host, port=options.port, uri=uri, tell=tell)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "snnrun ui",
        description="Serve MLflow's pages on the store of the runs, and name those to look at.",
        epilog=FILTERS,
    )
    parser.add_argument("what", nargs="?", help="last: open the newest sweep; compare: the runs that the filters leave")
    parser.add_argument("filters", nargs="*", metavar="filter")
    add_source(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=5000)
    return parser


def _has_display() -> bool:
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _pages(options: argparse.Namespace) -> dict[str, str]:
    """The pages to look at: title, and the part of the address after the server's. The first is the requested page.

    Raises:
        SnnrunError: a run to compare or a page to open does not exist.
    """
    from snnrun.runs import collect

    if options.what == "compare":
        _, found, notes = chosen(options)
        for note in notes:
            print(note)
        return {"comparison": comparison([run for run in found if run.run_id is not None])}
    try:
        known = [run for run in collect.collect(options.outputs, options.uri, warn) if run.run_id is not None]
    except SnnrunError:
        if options.what is None:  # the pages of an empty store
            return {}
        raise
    return newest(known)


def comparison(found: Sequence[Any]) -> str:
    """MLflow's page that sets runs beside one another. Raises SnnrunError if there are fewer than two."""
    if len(found) < 2:
        raise SnnrunError(f"ui compare: {len(found)} of the runs that fit is in the store, and two are needed.")
    names = json.dumps([run.run_id for run in found], separators=(",", ":"))
    experiments = json.dumps(sorted({run.experiment_id for run in found}), separators=(",", ":"))
    return f"/#/compare-runs?runs={urllib.parse.quote(names)}&experiments={urllib.parse.quote(experiments)}&{MODE}"


def newest(known: Sequence[Any]) -> dict[str, str]:
    """The pages of the newest sweep, or of the newest run if there is no sweep; and the page of all runs."""
    if not known:
        return {}
    points = [run for run in known if "mlflow.parentRunId" in run.tags]
    last = max(points or known, key=lambda run: run.started)
    every = f"/#/experiments/{last.experiment_id}/runs"
    if not points:
        return {"newest run": f"{every}/{last.run_id}?{MODE}", "all runs": f"{every}?{MODE}"}
    parent = last.tags["mlflow.parentRunId"]
    table = _table(last, [run for run in points if run.tags["mlflow.parentRunId"] == parent])
    return {
        "newest sweep": f"{every}?{table}&{MODE}",
        "its charts": f"{every}?{table}&compareRunsMode=CHART&{MODE}",
        "all runs": f"{every}?{MODE}",
    }


def swept(points: Sequence[Any]) -> list[str]:
    """The parameters in which the runs of a sweep differ, without those that follow from the rule or the corpus."""
    from snnrun.runs import compare

    keys = ["data.name", *compare.differing(points, [compare.settings_of(run) for run in points]), "seed"]
    return [key for key in keys if len({run.params.get(key) for run in points}) > 1]


def _table(last: Any, points: Sequence[Any]) -> str:
    """The part of an address for the table of a sweep: a view stored with the experiment, or only the sort order."""
    from snnrun import tracking

    parent = last.tags["mlflow.parentRunId"]
    search = {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent}'",
        "orderByKey": f"metrics.`{FIGURES[0]}`",
        "orderByAsc": False,
    }
    view = search | {
        "selectedColumns": [f"metrics.`{key}`" for key in FIGURES] + [f"params.`{key}`" for key in swept(points)],
        "runsHiddenMode": "SHOW_ALL",
        "chartsSearchFilter": "/accuracy$",
    }
    name = f"snnrun-{parent[:8]}"
    try:
        with tracking.quiet():
            client = tracking.connect(last.uri)
            for key, value in (tracking.KIND | {VIEW_TAG + name: json.dumps(view)}).items():
                client.set_experiment_tag(last.experiment_id, key, value)
    except Exception:  # the store is read-only
        return urllib.parse.urlencode(
            {key: json.dumps(value) if value is False else value for key, value in search.items()}
        )
    return f"viewStateShareKey={name}"
