"""`snnrun runs`: list the runs that were made, show one, compare them over seeds, name the best."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from snnrun.commands import flags
from snnrun.commands.flags import add_number
from snnrun.config.paths import folder
from snnrun.errors import SnnrunError, warn
from snnrun.tracking.address import is_server

FILTERS = (
    "A filter is KEY=VALUE, with = != > >= < <= or ~ (contains): model=strsbp,hm2bp status=finished 'train.lr>0.001' "
    "'test/accuracy_last>=0.9' 'started>2026-11-01'. Filters with < or > need quotes. All must hold."
)


def main(arguments: list[str]) -> int:
    """Run one of its commands; returns the exit code."""
    options = _parser().parse_args(arguments)
    options.arguments = arguments
    code: int = options.run(options)
    return code


def add_source(parser: argparse.ArgumentParser) -> None:
    """The options that say which runs are meant."""
    parser.add_argument("--outputs", type=folder, default=Path("outputs"), help="the folder that the runs wrote to")
    parser.add_argument("--uri", help="a store elsewhere, read alone: http://host:5000 or sqlite:////path/mlflow.db")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("snnrun runs", description="Look at the runs that were made, and compare them.")
    commands = parser.add_subparsers(required=True, metavar="list | show | compare | best | keep | import")

    def command(
        name: str, about: str, run: Callable[[argparse.Namespace], int], **more: Any
    ) -> argparse.ArgumentParser:
        entry = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.", **more)
        entry.set_defaults(run=run)
        add_source(entry)
        entry.add_argument("--json", action="store_true", help="for programs; accuracies are shares")
        return entry

    listing = command(
        "list", "every run with what differs and its main figures, the latest first", _list, epilog=FILTERS
    )
    listing.add_argument("filters", nargs="*", metavar="filter")
    listing.add_argument("--sort", metavar="KEY", help="by a parameter or metric, numbers from the largest down")
    listing.add_argument("--reverse", action="store_true", help="turn the order round")
    add_number(listing, "--limit", help="the first N only")
    listing.add_argument("--columns", type=_words, metavar="KEY,...", help="these instead of what differs")

    show = command(
        "show", "all that is known of one run: config, figures, curves, files, origin, command, commit", _show
    )
    show.add_argument("name", metavar="RUN", help="a folder, the beginning of a name or of an MLflow id, or last")

    compare = command(
        "compare",
        "mean and standard deviation over seeds, grouped by everything else, a table for each corpus",
        _compare,
        epilog=f"{FILTERS} Rows are ranked by validation accuracy and tested against the best, or against the row that "
        "--against names, with what each has changed of it.",
    )
    _add_comparison(compare)

    best = command("best", "the run of each corpus with the highest validation accuracy", _best, epilog=FILTERS)
    best.add_argument("filters", nargs="*", metavar="filter")
    best.add_argument("--by", type=_words, default=[], metavar="KEY,...", help="the best for each value, such as model")

    keeping = command(
        "keep", "write finished runs as small files that can be kept with the source: no weights", _keep, epilog=FILTERS
    )
    keeping.add_argument("filters", nargs="*", metavar="filter")
    keeping.add_argument("--to", type=folder, required=True, metavar="FOLDER", help="stands for --outputs later")

    missing = commands.add_parser(
        "import",
        help="send to MLflow what it lacks of runs: after a server was away, or of runs with tracking=none",
        description="Send to MLflow what it lacks of runs: parameters, points, files. What it has is not sent again.",
    )
    missing.set_defaults(run=_import)
    missing.add_argument("names", nargs="+", metavar="RUN", help="a folder, the beginning of a name, or last")
    missing.add_argument("--outputs", type=folder, default=Path("outputs"), help="the folder that the runs wrote to")
    missing.add_argument("--uri", help="the store (default: that of the run's config)")
    return parser


def _add_comparison(compare: argparse.ArgumentParser) -> None:
    compare.add_argument("filters", nargs="*", metavar="filter")
    compare.add_argument("--by", type=_words, metavar="KEY,...", help="group by these only, such as model,train.lr")
    compare.add_argument(
        "--metric", action="append", metavar="KEY", help="figures to compare, the first ranks; may be repeated"
    )
    compare.add_argument("--against", metavar="VALUE", help="test against this row, such as base of --by label")
    compare.add_argument("--out", type=folder, metavar="FILE", help="write the tables there, as Markdown")
    compare.add_argument("--title", default="Runs compared", metavar="TEXT", help="the heading of that file")


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise argparse.ArgumentTypeError("names no key")
    return words


# ---- the commands ---------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    from snnrun.runs import filters, tables
    from snnrun.runs.collect import collect

    known = collect(options.outputs, options.uri, warn)
    found, _ = filters.select(known, options.filters)
    columns = None if options.columns is None else [filters.key_named(word, known) for word in options.columns]
    if options.sort is not None:
        found = filters.ordered(found, filters.key_named(options.sort, known), reverse=options.reverse)
    elif options.reverse:
        found.reverse()
    found = found[: options.limit]
    if options.json:
        _print_json([as_json(run) for run in found])
    elif found:
        tables.listing(found, columns, tables.console())
    else:
        print(f"none of {len(known)} runs fits {' '.join(options.filters)}")
    return 0


def _import(options: argparse.Namespace) -> int:
    from snnrun.runs import importer

    importer.import_runs(options.names, options.outputs, options.uri)
    return 0


def _keep(options: argparse.Namespace) -> int:
    from snnrun.runs import compare, records
    from snnrun.runs.collect import history

    _, found, notes = chosen(options)
    found, others = compare.finished(found)
    for note in [*notes, *others]:
        warn(note)
    if not found:
        raise SnnrunError("nothing to keep: a record is of a finished run. Go on with the others by snnrun resume.")
    kept = sorted({records.keep(run, history(run), records.parameters(run), options.to) for run in reversed(found)})
    if options.json:
        _print_json({"files": [str(path) for path in kept]})
    else:
        print(f"{len(kept)} record{'s' if len(kept) != 1 else ''} in {options.to}")
    return 0


def _show(options: argparse.Namespace) -> int:
    from snnrun.runs import tables
    from snnrun.runs.collect import history, one
    from snnrun.runs.show import show

    run = one(options.name, options.outputs, options.uri, warn)
    epochs = history(run)
    if options.json:
        files = sorted(path.name for path in run.folder.iterdir() if path.is_file()) if run.folder else []
        _print_json(as_json(run) | {"tags": run.tags, "epochs": epochs, "files": files, "link": link(run)})
    else:
        show(run, epochs, link(run), tables.console())
    return 0


def _compare(options: argparse.Namespace) -> int:
    from snnrun.runs import compare, filters, tables
    from snnrun.runs.defaults import completed

    known, found, notes = chosen(options)
    by = None if options.by is None else [filters.key_named(word, known) for word in options.by]
    metrics = options.metric and [_metric(word, known) for word in options.metric]
    sections = compare.compare([completed(run) for run in found], by, metrics, options.against)
    if options.json:
        _print_json({"sections": [_section(section) for section in sections], "notes": notes})
        return 0
    if options.out is not None:
        flags.write(options.out, tables.comparison_page(sections, options.title, [*_made(options.arguments), *notes]))
        return 0
    out = tables.console()
    for note in notes:
        tables.say(out, note)
    tables.comparison(sections, out)
    return 0


def _made(arguments: Sequence[str]) -> list[str]:
    """When, by what and by which command a page was made."""
    from snnrun.record import provenance

    made = f"{time.strftime('%Y-%m-%d %H:%M')}, snnrun {provenance.version()}"
    return [made, shlex.join(["snnrun", "runs", *arguments])]


def _best(options: argparse.Namespace) -> int:
    from snnrun.runs import compare, filters, tables
    from snnrun.runs.defaults import completed

    known, found, notes = chosen(options)
    entries = compare.best([completed(run) for run in found], [filters.key_named(word, known) for word in options.by])
    if options.json:
        _print_json({"best": [_best_json(entry) for entry in entries], "notes": notes})
    else:
        out = tables.console()
        for note in notes:
            tables.say(out, note)
        tables.best(entries, out)
    if not any(entry.runs for entry in entries):
        raise SnnrunError(
            "no run with validation samples, so none can be chosen: train with data.validation=0.1, or give other "
            "filters."
        )
    return 0


def chosen(options: argparse.Namespace) -> tuple[Sequence[Any], Sequence[Any], list[str]]:
    """All runs, those that the filters leave, and notes on runs left out.

    Only finished runs are left, unless a filter names the status.

    Raises:
        SnnrunError: there is nothing to compare.
    """
    from snnrun.runs import compare, filters
    from snnrun.runs.collect import collect

    known = collect(options.outputs, options.uri, warn)
    found, asked = filters.select(known, options.filters)
    notes: list[str] = []
    if not any(entry.key == "status" for entry in asked):
        found, notes = compare.finished(found)
    if not found:
        told = f" ({'; '.join(notes)})" if notes else ""
        raise SnnrunError(f"nothing to compare: none of {len(known)} runs is finished and fits the filters{told}.")
    return known, found, notes


def _metric(word: str, known: Sequence[Any]) -> str:
    from snnrun.errors import UsageError, did_you_mean

    metrics = sorted(set().union(*(run.metrics for run in known)))
    if word not in metrics:
        there = f"There are {', '.join(metrics)}.{did_you_mean(word, metrics)}"
        raise UsageError(f"--metric {word}: no run has this metric. {there}")
    return word


# ---- JSON -----------------------------------------------------------------------------------------------------------


def link(run: Any) -> str | None:
    """The run's page in MLflow: on the server if the store is one, otherwise on `snnrun ui` at its default address."""
    if run.uri is None:
        return None
    return page(run, run.uri if is_server(run.uri) else "http://127.0.0.1:5000")


def page(run: Any, ui: str) -> str:
    """The run's page in MLflow's pages at the address `ui`."""
    return f"{ui.rstrip('/')}/#/experiments/{run.experiment_id}/runs/{run.run_id}"


def as_json(run: Any) -> dict[str, Any]:
    """A run as JSON for programs: facts, parameters (text) and metrics (numbers)."""
    return {
        **{key: value or None for key, value in run.facts().items()},
        "data": run.data,
        "params": run.params,
        "changed": {key: {"before": before, "now": now} for key, (before, now) in run.changed.items()},
        "metrics": run.metrics,
    }


def _section(section: Any) -> dict[str, Any]:
    return {
        "title": section.title,
        "corpus": section.corpus,
        "ranked_by": section.ranked,
        "notes": section.notes,
        "groups": [
            {
                "settings": group.settings,
                "best": group.best,
                "base": group.base,
                "changes": group.changes,
                "n": len(group.runs),
                "seeds": group.seeds,
                "mixed": group.mixed,
                "metrics": {
                    metric: {
                        "n": found.n,
                        "mean": found.mean,
                        "std": found.std,
                        "difference": found.difference,
                        "p_holm": found.p,
                        "test": found.test,
                    }
                    for metric, found in group.statistics.items()
                },
                "runs": [run.short for run in group.runs],
            }
            for group in section.groups
        ],
    }


def _best_json(entry: Any) -> dict[str, Any]:
    return {
        "title": entry.title,
        "settings": entry.settings,
        "candidates": entry.candidates,
        "runs": [as_json(run) for run in entry.runs],
        "not_comparable": [run.short for run in entry.unvalidated],
    }


def _print_json(value: Any) -> None:
    print(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    """The value with null for each number that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, (list, tuple)) else value
