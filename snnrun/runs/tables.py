"""The tables of `snnrun runs`: never wider than the terminal, and in a pipe plain text of any width."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from snnrun.metric_names import BEST_EPOCH, BEST_VALIDATION, TEST_CHOSEN, TEST_LAST, TEST_MAXIMUM
from snnrun.runs import compare
from snnrun.runs.collect import Run
from snnrun.runs.compare import BOOKKEEPING, Best, Group, Section, changes
from snnrun.runs.filters import value_of

CELL = 28  # characters of a setting; lists of thresholds can be long
TITLES = {BEST_VALIDATION: "validation %", TEST_CHOSEN: "test %", TEST_LAST: "last %", TEST_MAXIMUM: "max %"}
PIPE = 100_000
GAP = 3  # between two columns
STYLES = {"failed": "red", "running": "cyan", "unfinished": "yellow", "interrupted": "yellow", "killed": "yellow"}


@dataclass
class Column:
    """A column of a table; those of low rank are left out first where the terminal is narrow."""

    title: str
    cells: list[str]
    rank: int = 0
    right: bool = False


def console() -> Console:
    """The console of the tables. It shows names of runs and folders as they are: no markup, no emoji, no highlighting.

    A pipe has no width that a table would have to fit.
    """
    width = None if Console().is_terminal else PIPE
    return Console(width=width, markup=False, emoji=False, highlight=False)


def percent(value: float | None) -> str:
    """A share as percent with two places, without the sign."""
    return "" if value is None else f"{100 * value:.2f}"


def number(metric: str, value: float | None) -> str:
    """A metric as it is shown: accuracies in percent."""
    if value is None:
        return ""
    return percent(value) if "accuracy" in metric else f"{value:.4g}"


# ---- list -----------------------------------------------------------------------------------------------------------


def listing(runs: Sequence[Run], chosen: Sequence[str] | None, out: Console) -> None:
    """One line a run: what it is, the parameters that differ (or those `chosen`), and its main figures."""
    columns = [
        Column("run", [run.short for run in runs], 9),
        Column("started", [when(run.started) for run in runs], 3),
        Column("model", [run.params.get("model.name", "?") for run in runs], 9),
        Column("data", [run.data for run in runs], 9),
        Column("status", [run.status for run in runs], 8),
    ]
    extra = list(chosen) if chosen is not None else _varied(runs)
    for place, key in enumerate(extra):
        cells = [_short(key, value_of(run, key)) for run in runs]
        columns.append(Column(key, cells, 8 if key == "seed" else -place, right=_all_numbers(cells)))
    columns += [
        Column("epochs", [epochs_of(run) for run in runs], 2, right=True),
        Column("validation %", [percent(run.metrics.get(BEST_VALIDATION)) for run in runs], 6, right=True),
        Column("test %", [percent(run.metrics.get(TEST_CHOSEN)) for run in runs], 7, right=True),
        Column("last %", [percent(run.metrics.get(TEST_LAST)) for run in runs], 4, right=True),
    ]
    missing = print_table(columns, out, [STYLES.get(run.status, "") for run in runs])
    count = f"{len(runs)} run{'s' if len(runs) != 1 else ''}"
    say(out, f"{count}. test %: at the epoch that validation chose; last %: at the last.")
    for note in changes(runs):
        say(out, note)
    if missing:
        say(out, f"No room for {', '.join(missing)}: widen the terminal, choose by --columns, or take --json.")


def _varied(runs: Sequence[Run]) -> list[str]:
    """The parameters in which runs of the same rule and corpus differ; the commonest of interest first."""
    varied = [key for key in compare.varied(runs, [run.params for run in runs]) if not key.startswith(BOOKKEEPING)]
    first = [key for key in ("seed", "model.network") if key in varied]
    rest = [key for key in varied if key not in first]
    return first + sorted(rest, key=lambda key: (not key.startswith("train."), key))


def epochs_of(run: Run) -> str:
    """Epochs done, of those wanted."""
    done = run.metrics.get("epoch", 0.0)
    return f"{done:.0f}/{run.params.get('train.epochs', '?')}"


def when(seconds: float) -> str:
    """A date and time to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _short(key: str, value: str | float | None) -> str:
    """A value that fits its cell. The name that a point was given stays whole, since it tells a row from the others."""
    text = value if isinstance(value, str) else number(key, value)
    return text if len(text) <= CELL or key == "label" else f"{text[: CELL - 1]}…"


def _all_numbers(cells: Iterable[str]) -> bool:
    try:
        [float(cell) for cell in cells if cell]
    except ValueError:
        return False
    return True


# ---- compare, best --------------------------------------------------------------------------------------------------


def comparison(sections: Sequence[Section], out: Console) -> None:
    """A table a corpus: mean ± standard deviation, number of runs, p against the best or a base that was named."""
    for section in sections:
        say(out, "")
        out.print(Text(section.title, style="bold cyan"), soft_wrap=True)
        missing = print_table(comparison_columns(section), out, ["bold green" * group.best for group in section.groups])
        for note in section.notes:
            say(out, f"  note: {note}")
        if missing:
            say(out, f"  no room for {', '.join(missing)}: widen the terminal, or take --json")
    say(out, "")
    say(out, legend(sections))


def comparison_columns(section: Section) -> list[Column]:
    """The columns of a section's table."""
    groups = section.groups
    columns = [
        Column(key, [_short(key, group.settings[key]) for group in groups], -place)
        for place, key in enumerate(groups[0].settings)
    ]
    columns = columns or [Column("runs", ["all"] * len(groups))]
    if section.against is not None:
        columns.append(Column("changed", [_changes(group) for group in groups], 5))
    columns.append(Column("n", [str(len(group.runs)) for group in groups], 8, right=True))
    for metric in dict.fromkeys(metric for group in groups for metric in group.statistics):
        rank = 9 if metric == section.ranked else 7
        cells = [_mean(metric, group) for group in groups]
        columns.append(Column(TITLES.get(metric, metric), cells, rank, right=True))
        if section.against is not None:
            columns.append(Column("difference", [_difference(metric, group) for group in groups], rank - 1, right=True))
        if any(group.statistics[metric].p is not None for group in groups if metric in group.statistics):
            columns.append(Column("p", [_p(metric, group) for group in groups], rank - 3, right=True))
    return [*columns, Column("", ["best" if group.best else "" for group in groups], 8)]


def _changes(group: Group) -> str:
    """The settings that a group has changed. A network's layers follow from its name."""
    shown = {key: value for key, value in group.changes.items() if key != "model.layers"}
    return " ".join(f"{key}={value}" for key, value in shown.items())


def _difference(metric: str, group: Group) -> str:
    found = group.statistics.get(metric)
    if found is None or found.difference is None:
        return ""
    return f"{'+' if found.difference > 0 else ''}{number(metric, found.difference)}"


def _mean(metric: str, group: Group) -> str:
    found = group.statistics.get(metric)
    if found is None:
        return ""
    spread = "" if found.std is None else f" ± {number(metric, found.std)}"
    few = f" (n {found.n})" if found.n != len(group.runs) else ""
    return f"{number(metric, found.mean)}{spread}{few}"


def _p(metric: str, group: Group) -> str:
    found = group.statistics.get(metric)
    return "" if found is None else p_value(found.p)


def p_value(p: float | None) -> str:
    """p with three places; nothing for None."""
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def legend(sections: Sequence[Section]) -> str:
    """What the columns mean."""
    tests = {
        statistic.test
        for section in sections
        for group in section.groups
        for statistic in group.statistics.values()
        if statistic.test
    }
    ranked = {section.ranked for section in sections if section.ranked}
    base = next((section.against for section in sections if section.against), None)
    words = [f"Ranked by {', '.join(sorted(ranked))}."] if ranked and base is None else []
    words.append("mean ± standard deviation over n runs.")
    if tests:
        names = {"paired": "t-test paired by seed", "Welch": "Welch's t-test"}
        told = " or, where seeds differ, ".join(names[test] for test in ("paired", "Welch") if test in tests)
        whom = "the best" if base is None else base
        words.append(f"p: two-sided, against {whom}; {told}, Holm-corrected over the rows of a table.")
    elif any(len(section.groups) > 1 for section in sections):
        words.append("No test: that takes two or more seeds a row (snnrun train -m seed=0,1,2 ...), not all alike.")
    return " ".join(words)


def comparison_page(sections: Sequence[Section], title: str, facts: Sequence[str]) -> str:
    """The tables of `comparison` as a page of Markdown."""
    lines = [f"# {markdown(title)}", "", *(f"- {markdown(fact)}" for fact in facts)]
    for section in sections:
        lines += ["", f"## {markdown(section.title)}", "", *markdown_table(comparison_columns(section))]
        lines += ["", *(f"- {markdown(note)}" for note in section.notes)]
    return "\n".join([*lines, "", markdown(legend(sections))]) + "\n"


def markdown_table(columns: Sequence[Column]) -> list[str]:
    """The lines of a table in Markdown."""
    rows = [[column.title for column in columns], *zip(*(column.cells for column in columns), strict=True)]
    head, *others = [f"| {' | '.join(map(markdown, row))} |" for row in rows]
    return [head, "|" + "|".join("--:" if column.right else "---" for column in columns) + "|", *others]


def markdown(text: str) -> str:
    """A text as it is, in Markdown."""
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", text.replace("\n", " "))


def best(found: Sequence[Best], out: Console) -> None:
    """The chosen runs of each corpus, and what could not be compared."""
    for entry in found:
        say(out, "")
        parts = [entry.title, *(f"{key} {value}" for key, value in entry.settings.items())]
        out.print(Text(", ".join(parts), style="bold cyan"), soft_wrap=True)
        for run in entry.runs:
            test = run.metrics.get(TEST_CHOSEN)
            epoch = run.metrics.get(BEST_EPOCH)
            at = f" at epoch {epoch:.0f}" if epoch is not None else ""
            say(
                out,
                f"  {run.short}  {run.name}: validation {percent(run.metrics[BEST_VALIDATION])} %{at}, "
                f"test {percent(test) or '?'} %",
            )
            say(out, f"    {shlex.quote(str(run.folder))}" if run.folder else f"    MLflow run {run.run_id}")
        if entry.runs:
            say(out, f"  of {entry.candidates} compared")
        if entry.unvalidated:
            names = ", ".join(run.short for run in entry.unvalidated[:5]) + ", ..." * (len(entry.unvalidated) > 5)
            say(out, f"  not comparable, since without validation samples only the test set could choose: {names}")
    say(out, "")
    say(out, "Chosen by validation accuracy; the test accuracy is that of the same epoch and has chosen nothing.")


# ---- tables ---------------------------------------------------------------------------------------------------------


def say(out: Console, text: str) -> None:
    """A line of text; on a terminal broken between words, elsewhere whole."""
    out.print(Text(text), soft_wrap=not out.is_terminal)


def print_table(columns: Sequence[Column], out: Console, styles: Sequence[str]) -> list[str]:
    """Print what fits; returns the titles of the columns that did not."""
    shown = list(columns)
    missing = []
    while out.is_terminal and len(shown) > 2 and sum(map(_width, shown)) - GAP > out.width:
        least = min(shown, key=lambda column: column.rank)
        shown.remove(least)
        missing.append(least.title)
    out.print(_lines(shown, out, styles), no_wrap=True, overflow="ellipsis")
    return missing


def _width(column: Column) -> int:
    return max(cell_len(text) for text in (column.title, *column.cells)) + GAP


def _lines(columns: Sequence[Column], out: Console, styles: Sequence[str]) -> Text:
    """The table as text: rich's own tables take as long for two thousand runs as reading them from the store."""
    widths = [_width(column) - GAP for column in columns]
    rule = "─" if out.encoding.lower().startswith("utf") else "-"
    lines = [
        Text(_line([column.title for column in columns], columns, widths), style="bold"),
        Text(rule * min(sum(widths) + GAP * (len(widths) - 1), out.width)),
    ]
    for place, style in enumerate(styles):
        lines.append(Text(_line([column.cells[place] for column in columns], columns, widths), style=style))
    return Text("\n").join(lines)


def _line(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    padded = []
    for cell, column, width in zip(cells, columns, widths, strict=True):
        space = " " * (width - cell_len(cell))
        padded.append(space + cell if column.right else cell + space)
    return (" " * GAP).join(padded).rstrip()
