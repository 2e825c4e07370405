"""`snnrun reproduce`: train the rows of a published table that are missing, and print the table with ours beside it."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnrun.commands import flags
from snnrun.commands.flags import add_number
from snnrun.config.paths import folder, quoted
from snnrun.display.verbosity import as_told
from snnrun.errors import INTERRUPTED, SnnrunError, UsageError, warn

if TYPE_CHECKING:
    from snnrun.paper.published import Table
    from snnrun.reproduce.outcome import Outcome
    from snnrun.reproduce.plan import Entry, Request
    from snnrun.reproduce.price import Prices

FORMATS = ("terminal", "markdown", "json", "latex", "html")
EPILOG = """\
The cost is named before anything is trained, from a short bench of each row, which is kept in OUTPUTS/speed.json. Runs
with the same settings count, whatever command made them. What is missing runs as one sweep. Stopped in any way, the
same command goes on with it from the last checkpoint, and runs nothing twice.

An override changes all rows, such as train.batch_size=32 train.lr=0.006 or hardware=gpu. By default a tenth of the
training samples choose the epoch (data.validation=0.1). The papers train on all and take the best epoch on the test
set; --paper-settings does the former, and the table shows both."""
SEEDS = 5  # as the papers


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    with as_told(arguments) as rest:
        return _reproduce(rest)


def _reproduce(arguments: list[str]) -> int:
    options = _parser().parse_intermixed_args(arguments)
    from snnrun.config.check import register

    register()
    if options.out is not None and options.format == "terminal":
        raise UsageError("--out: takes a format for files: markdown, json, latex or html.")
    if options.table is None and options.rows is not None:
        raise UsageError("--rows: are those of a table. Name it, such as snnrun reproduce strsbp/table5 --rows ours.")
    if options.table is None and options.out is None and options.format not in (None, "terminal"):
        raise UsageError(f"--format {options.format}: the list of tables has none. Name a table, or a file by --out.")
    if options.table is None:
        return _list(options) if options.out is None else _page_of_all(options, arguments)
    from snnrun.reproduce import plan
    from snnrun.reproduce.price import Prices

    if options.patience is not None and options.paper_settings:
        raise UsageError("--patience: goes by validation samples, and --paper-settings leaves none. Give one of them.")
    table = plan.table_named(options.table)
    plan.check_extra(options.overrides)
    launcher = flags.launcher(options.launcher, options.jobs)
    request = replace(_request(options), extra=tuple(options.overrides))
    entries = [plan.entry_of(row, request) for row in plan.rows_named(table, options.rows)]
    _count(entries, options)
    plan.check_corpora(entries, surrogate=options.surrogate)
    prices = Prices(options.outputs)
    with _chatter(options):
        _tell_cost(table, entries, prices)
        if options.dry_run:
            return 0
        if any(entry.missing for entry in entries):
            if _train(table, entries, request, launcher, options.outputs) == INTERRUPTED:
                print(f"Go on by: {shlex.join(['snnrun', 'reproduce', *arguments])}", flush=True)
                return INTERRUPTED
            _count(entries, options)
    _show(_outcome(table, entries, prices, arguments, request.extra), options)
    # Not the sweep's own code: a point that failed once, with other settings, is no failure now.
    return SnnrunError.exit_code if any(entry.missing for entry in entries) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "snnrun reproduce",
        usage="snnrun reproduce [TABLE] [override ...] [options]",
        description="Train the rows of a published table, and print it with ours beside it. Without a table: list all.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", nargs="?", metavar="TABLE", help="such as strsbp/table5")
    parser.add_argument("overrides", nargs="*", metavar="override", help="see below")
    parser.add_argument("--rows", type=_words, metavar="ROW,...", help="these alone; `ours` means all that begin so")
    add_number(parser, "--seeds", help="0 to N - 1 (default: 5, as the papers; of all tables: those that there are)")
    add_number(parser, "--epochs", help="default: each row's own number")
    add_number(parser, "--patience", help="end a run once validation has not risen for N epochs")
    parser.add_argument("--paper-settings", action="store_true", help="train on all samples; no epoch can be chosen")
    parser.add_argument(
        "--surrogate", action="store_true", help="allow data that a program made in the form of a corpus"
    )
    flags.add_launcher(parser)
    parser.add_argument("--dry-run", action="store_true", help="name the cost, and train nothing")
    parser.add_argument("--format", choices=FORMATS, help="default: terminal, markdown with --out")
    parser.add_argument(
        "--out", type=folder, metavar="FILE", help="write the table there; without TABLE: all tables that have runs"
    )
    parser.add_argument("--outputs", type=folder, default=Path("outputs"), help="the folder that runs write to")
    return parser


def _request(options: argparse.Namespace) -> Request:
    from snnrun.reproduce import plan

    return plan.Request(
        options.seeds or SEEDS, options.epochs, options.paper_settings, options.surrogate, patience=options.patience
    )


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise UsageError("--rows: names no row.")
    return words


@contextlib.contextmanager
def _chatter(options: argparse.Namespace) -> Iterator[None]:
    """What is said on the way goes to the standard error where the standard output is the table for a program."""
    if options.format in (None, "terminal") or options.out is not None:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


# ---- what is there and what it takes --------------------------------------------------------------------------------


def _runs(outputs: Path) -> list[Any]:
    from snnrun.runs.collect import collect

    if not outputs.is_dir():
        return []
    try:
        return collect(outputs, None, warn)
    except SnnrunError:  # no runs yet
        return []


def _count(entries: Sequence[Entry], options: argparse.Namespace) -> None:
    from snnrun.reproduce import plan

    runs = _runs(options.outputs)
    for entry in entries:
        plan.find_runs(entry, runs, surrogate=options.surrogate)


def _tell_cost(table: Table, entries: Sequence[Entry], prices: Prices) -> None:
    """Name what there is to train, and what it takes."""
    from snnrun.reproduce.price import spelt

    total = 0.0
    print(f"{table.name}: {table.title}", flush=True)
    for entry in entries:
        there = len(entry.runs)
        name = f"  {entry.row.name}: {entry.row.title}, {entry.row.network}, {entry.epochs} epochs"
        if not entry.missing:
            print(f"{name}: {there} of {entry.seeds} runs are there", flush=True)
            continue
        speed = prices.measured(entry, lambda text: print(f"  {text}", file=sys.stderr, flush=True))
        seconds = speed.seconds(entry.epochs)
        total += len(entry.missing) * seconds
        mark = " (surrogate corpus)" if entry.origin == "surrogate" else ""
        print(
            f"{name}{mark}: {len(entry.missing)} of {entry.seeds} runs to train, "
            f"{'about' if entry.patience is None else 'at most about'} {spelt(seconds)} each "
            f"({1e3 / speed.train_ms:,.0f} samples/s)",
            flush=True,
        )
    if total:
        print(
            f"About {spelt(total)} in all on this machine, one run at a time, by a short bench of each row.", flush=True
        )


# ---- training -------------------------------------------------------------------------------------------------------


def _train(table: Table, entries: Sequence[Entry], request: Request, launcher: Sequence[str], outputs: Path) -> int:
    """Train what is missing as points of the table's one sweep, a new one or that of before. Returns the exit code."""
    from snnrun.commands import train
    from snnrun.record import names
    from snnrun.sweep.points import place

    points = [
        f"{table.name}/{entry.row.name}: {' '.join(entry.words)} seed=choice({','.join(map(str, entry.missing))})"
        for entry in entries
        if entry.missing
    ]
    name = f"reproduce_{table.name.replace('/', '_')}"
    if any(entry.origin == "surrogate" for entry in entries):
        name += "_surrogate"
    before = sorted(path for path in outputs.glob(f"sweeps/*_{name}") if (path / names.SWEEP).is_file())
    folder = before[-1] if before else outputs / "sweeps" / f"{flags.stamp()}_{name}"
    listed = json.dumps(points, ensure_ascii=False)
    return train.main(
        [
            *("-m", "search=list", f"search.points={listed}", f"outputs={quoted(str(outputs))}"),
            *(*launcher, *request.extra, *place(folder)),
        ]
    )


# ---- the table ------------------------------------------------------------------------------------------------------


def _outcome(
    table: Table, entries: Sequence[Entry], prices: Prices, arguments: Sequence[str], extra: Sequence[str]
) -> Outcome:
    from snnrun.record import provenance
    from snnrun.reproduce.outcome import outcome
    from snnrun.reproduce.price import parameters

    made = f"{time.strftime('%Y-%m-%d %H:%M')}, snnrun {provenance.version()}"
    facts = [made, shlex.join(["snnrun", "reproduce", *arguments])]
    return outcome(table, entries, lambda entry: parameters(entry, prices), facts, extra)


def _show(found: Outcome, options: argparse.Namespace) -> None:
    from snnrun.reproduce import pages
    from snnrun.reproduce.outcome import as_json

    kind = options.format or ("terminal" if options.out is None else "markdown")
    if kind == "terminal":
        _print(found)
        return
    forms = {"markdown": pages.markdown, "latex": pages.latex, "html": pages.page}
    text = json.dumps(as_json(found), indent=2, allow_nan=False) + "\n" if kind == "json" else forms[kind](found)
    if options.out is None:
        print(text, end="")
    else:
        flags.write(options.out, text)


def _print(found: Outcome) -> None:
    from snnrun.reproduce import pages
    from snnrun.runs import tables

    out = tables.console()
    tables.say(out, pages.head(found))
    missing = tables.print_table(pages.filled(found), out, ["bold" if line.seeds else "dim" for line in found.lines])
    for aside in pages.asides(found):
        tables.say(out, aside)
    if missing:
        tables.say(out, f"No room for {', '.join(missing)}: widen the terminal, or take --format markdown.")


def _page_of_all(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Write the tables of which there are runs, as they are, and train nothing."""
    from snnrun.paper.published import tables as all_tables
    from snnrun.record import provenance
    from snnrun.reproduce import pages, plan
    from snnrun.reproduce.outcome import outcome
    from snnrun.reproduce.price import Prices, parameters

    if options.format not in (None, "markdown"):
        raise UsageError("--format: a page of all tables is markdown. Name a TABLE for another format.")
    request = _request(options)
    runs, prices, found = _runs(options.outputs), Prices(options.outputs), []
    figures: dict[str, list[str]] = {}
    for table in all_tables().values():
        rows = [row for row in table.rows if plan.trainable(row) and any(plan.alike(run, row) for run in runs)]
        entries = [plan.entry_of(row, request) for row in rows]
        for entry in entries:
            entry.seeds = options.seeds or sys.maxsize
            plan.find_runs(entry, runs, surrogate=options.surrogate)
            entry.seeds = options.seeds or max(entry.runs, default=-1) + 1
        entries = [entry for entry in entries if entry.runs]
        if entries:
            seeds = max(entry.seeds for entry in entries)
            again = ["snnrun", "reproduce", table.name, "--rows", ",".join(entry.row.name for entry in entries)]
            again += [] if seeds == SEEDS else ["--seeds", str(seeds)]
            again += [] if options.patience is None else ["--patience", str(options.patience)]
            again += ["--surrogate"] if options.surrogate else []
            found.append(outcome(table, entries, lambda entry: parameters(entry, prices), [shlex.join(again)]))
            figures[table.name] = _draw(table, entries, options.out)
    if not found:
        raise SnnrunError(f"{options.outputs}: has no run of a row of a table. Say where they are by --outputs FOLDER.")
    made = [f"snnrun {provenance.version()}", shlex.join(["snnrun", "reproduce", *arguments])]
    flags.write(options.out, pages.all_markdown(found, made, figures))
    return 0


def _draw(table: Table, entries: Sequence[Entry], page: Path) -> list[str]:
    """Write the learning curves of a table's runs beside the page, a file for each corpus; returns their names."""
    from snnrun import tracking
    from snnrun.paper import compare
    from snnrun.paper.figures import curves
    from snnrun.runs.collect import history

    names: list[str] = []
    runs = [
        replace(run, params=tracking.flatten(entry.values) | run.params)  # an older run lacks later options
        for entry in entries
        for run in entry.runs.values()
    ]
    for part in compare.build(runs, history):
        drawn = curves(part)
        if drawn is not None:
            number = f"_{len(names) + 1}" if names else ""
            names.append(f"{page.stem}_{table.name.replace('/', '_')}{number}.svg")
            flags.write(page.parent / names[-1], drawn.decode())
    return names


def _list(options: argparse.Namespace) -> int:
    """Every table and row: what is here, what has been run, what it would take."""
    from snnrun.paper.published import tables as all_tables
    from snnrun.reproduce import plan
    from snnrun.reproduce.price import Prices, spelt
    from snnrun.runs import tables

    request = _request(options)
    runs, prices, out = _runs(options.outputs), Prices(options.outputs), tables.console()
    heads = ("row", "system", "network", "published", "corpus", "runs", "a run takes")
    for table in all_tables().values():
        cells = []
        for row in table.rows:
            here, count, cost = "cannot be trained here", "", ""
            if plan.trainable(row):
                here, count, cost = plan.state_of(row.data), "0", "not measured"
                if prices.knows(row) or any(plan.alike(run, row) for run in runs):  # else there is nothing to find
                    entry = plan.entry_of(row, request)
                    plan.find_runs(entry, runs, surrogate=options.surrogate)
                    speed = prices.kept(entry)
                    count = str(len(entry.runs))
                    cost = cost if speed is None else spelt(speed.seconds(entry.epochs))
            cells.append((row.name, row.title, row.network, row.figures, here, count, cost))
        tables.say(out, f"\n{table.name}: {table.title}")
        columns = [
            tables.Column(head, [line[place] for line in cells], rank=-place) for place, head in enumerate(heads)
        ]
        tables.print_table(columns, out, [""] * len(cells))
    tables.say(out, "\nsnnrun reproduce TABLE trains what is missing; --dry-run measures what it would take.")
    return 0
