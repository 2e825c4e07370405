"""What came out: for each row the published figures, ours over seeds, and whether the two differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from snnrun.metric_names import (
    BEST_VALIDATION,
    CPU_SECONDS,
    FINAL_ACCURACIES,
    TEST_CHOSEN,
    TEST_LAST,
    TEST_MAXIMUM,
)
from snnrun.paper.published import Published, Table, of_corpus
from snnrun.paper.rows_others import LATER
from snnrun.reproduce.plan import Entry
from snnrun.runs.collect import Run, history
from snnrun.runs.compare import commits_of
from snnrun.runs.ends import patience_of
from snnrun.runs.significance import mean_std, one_sample, welch_of

NAMED = 4  # commits


@dataclass(frozen=True)
class Ours:
    """One measure of a row's runs in percent: mean, standard deviation (None for one run), greatest, p of the test."""

    n: int
    mean: float
    std: float | None
    best: float
    p: float | None


@dataclass(frozen=True)
class Line:
    """A row of the table. `test` says what p comes from, None where there is no mean to test against.

    `chosen` is at the epoch that the validation samples chose, `last` at the last epoch, `maximum` over the epochs on
    the test set, as the papers have it. `parameters` are those of the network that was built, None where none was.
    `trained` has the epochs of each run. `hours` are the core-hours of a run's training, `spikes` those of an inference
    beyond the input, `energy` its estimate in nJ: means over the runs.
    """

    row: Published
    trained: list[int]
    parameters: int | None
    seeds: list[int]
    validation: Ours | None
    chosen: Ours | None
    last: Ours | None
    maximum: Ours | None
    test: str | None
    surrogate: bool
    runs: list[str]
    hours: float | None = None
    spikes: float | None = None
    energy: float | None = None

    @property
    def title(self) -> str:
        """The system, never without the word where its data are a surrogate."""
        return f"{self.row.title} (surrogate corpus)" if self.surrogate else self.row.title


@dataclass(frozen=True)
class Outcome:
    """A table with ours beside it. `notes` are said below it, `facts` are how it was made."""

    table: Table
    lines: list[Line]
    notes: list[str]
    facts: list[str] = field(default_factory=list)


def outcome(
    table: Table,
    entries: Sequence[Entry],
    parameters: Callable[[Entry], int | None],
    facts: Sequence[str],
    extra: Sequence[str] = (),
) -> Outcome:
    """Set the runs of the entries beside the rows of the table; rows without an entry are shown as published.

    `extra` are the overrides of all rows. Runs on less than the corpus are not tested against figures for the whole.
    """
    by_name = {entry.row.name: entry for entry in entries}
    cut = any(word.lstrip("+").startswith(("data.limit=", "data.test_limit=")) for word in extra)
    lines = []
    for row in table.rows:
        entry = by_name.get(row.name)
        lines.append(_line(row, entry, parameters(entry) if entry is not None and entry.runs else None, cut))
    notes = [f"Changed in all rows: {' '.join(extra)}."] if extra else []
    return Outcome(table, lines, [*notes, *_notes(table, lines, entries)], list(facts))


def _line(row: Published, entry: Entry | None, parameters: int | None, cut: bool) -> Line:
    runs = [] if entry is None else [entry.runs[seed] for seed in sorted(entry.runs)]
    surrogate = any(run.origin == "surrogate" for run in runs)
    cut = cut or (entry is not None and entry.values["data"].get("limit") is not None)
    found: dict[str, Ours | None] = {}
    test = None
    for metric in FINAL_ACCURACIES:
        values = [100.0 * run.metrics[metric] for run in runs if metric in run.metrics]
        p = None
        if metric in (TEST_CHOSEN, TEST_MAXIMUM) and not surrogate and not cut:
            p, said = tested(row, values)
            test = test or said
        found[metric] = Ours(len(values), *mean_std(values), max(values), p) if values else None
    return Line(
        row=row,
        trained=[] if entry is None else [_epochs(run, entry) for run in runs],
        parameters=parameters,
        seeds=[] if entry is None else sorted(entry.runs),
        validation=found[BEST_VALIDATION],
        chosen=found[TEST_CHOSEN],
        last=found[TEST_LAST],
        maximum=found[TEST_MAXIMUM],
        test=test,
        surrogate=surrogate,
        runs=[run.short for run in runs],
        hours=_mean([core_hours(run) for run in runs]),
        spikes=_mean([run.metrics.get("cost/spikes") for run in runs]),
        energy=_mean([run.metrics.get("cost/energy_nj") for run in runs]),
    )


def _epochs(run: Run, entry: Entry) -> int:
    return int(run.metrics.get("epoch", entry.epochs))


def core_hours(run: Run) -> float | None:
    """The processors' time of a run's epochs in hours; None where it did not run on a CPU, in one process.

    Earlier versions did not count it. The time that passed tells little, since a machine has other work.
    """
    epochs = history(run)
    alone = run.tags.get("device", "").startswith("CPU") and run.tags.get("processes", "1") == "1"
    if not alone or not epochs or not all(CPU_SECONDS in epoch for epoch in epochs):
        return None
    return sum(epoch[CPU_SECONDS] for epoch in epochs) / 3600


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def tested(row: Published, values: Sequence[float]) -> tuple[float | None, str | None]:
    """Two-sided p of our values against the published mean, and the test: Welch's where its deviation is known.

    Where a row has one figure and no column for it, the test takes it for the mean. A best alone is tested against
    nothing, since it is the best of an unknown number.
    """
    if row.mean is not None and row.std is not None and row.runs is not None:
        p = welch_of(values, row.mean, row.std, row.runs)
        return p, None if p is None else f"Welch, {row.mean:.2f} ± {row.std:.2f}, n {row.runs}"
    expected = row.mean if row.mean is not None else row.single
    if expected is None:
        return None, None
    p = one_sample(values, expected)
    return p, None if p is None else f"one-sample, {expected:.2f}"


def _notes(table: Table, lines: Sequence[Line], entries: Sequence[Entry]) -> list[str]:
    notes = [table.note] if table.note else []
    notes += [f"{line.row.title}, {line.row.network}: {line.row.note}" for line in lines if line.row.note]
    if any(line.surrogate for line in lines):
        notes.append(
            "A surrogate corpus is made by a program in the form of the real one (surrogate gradients are something "
            "else): comparable with no published figure, so nothing is tested."
        )
    limits = {entry.values["data"].get("limit") for entry in entries} - {None}
    notes += [f"Trained on {limit:,} samples only: nothing is tested." for limit in sorted(limits)]
    for entry in entries:
        own = entry.row.epochs
        if own is not None and entry.runs and entry.epochs != own:
            notes.append(
                f"{entry.row.title}, {entry.row.network}: {entry.epochs} epochs in place of the paper's {own}."
            )
        early = [run for run in entry.runs.values() if _epochs(run, entry) < entry.epochs]
        if early:
            bounds = sorted({bound for run in early if (bound := patience_of(run)) is not None})
            notes.append(
                f"{entry.row.title}, {entry.row.network}: at most {entry.epochs} epochs; a run ended once validation "
                f"had not risen for {' or '.join(map(str, bounds))} of them."
            )
        if entry.missing:
            seeds = ", ".join(map(str, entry.missing))
            notes.append(f"{entry.row.title}, {entry.row.network}: not finished: seeds {seeds}.")
    if any(line.chosen is None and line.seeds for line in lines):
        notes.append("Runs without validation samples have no chosen epoch; the last one is shown.")
    commits = commits_of([run for entry in entries for run in entry.runs.values()])
    if len(commits) > 1:
        named = ", ".join(commits[:NAMED]) + (", ..." if len(commits) > NAMED else "")
        notes.append(f"The runs come from {len(commits)} commits: {named}.")
    tests = sorted({line.test for line in lines if line.test})
    if tests:
        notes.append(
            "p: two-sided, ours against the published mean or single figure, not corrected for several rows; the "
            "published figures are maxima over epochs on the test set, as those of the papers' way are."
        )
    for data in dict.fromkeys(line.row.data for line in lines):
        later = of_corpus(LATER, data)
        if later:
            said = "; ".join(f"{record.system}, {record.network}: {record.figures}" for record in later)
            notes.append(f"Later work on this corpus, with other networks: {said}.")
    return notes


def as_json(found: Outcome) -> Mapping[str, object]:
    """For programs: accuracies in percent."""

    def ours(measure: Ours | None) -> object:
        return None if measure is None else vars(measure)

    return {
        "table": found.table.name,
        "title": found.table.title,
        "facts": found.facts,
        "notes": found.notes,
        "rows": [
            {
                "row": line.row.name,
                "system": line.title,
                "network": line.row.network,
                "surrogate": line.surrogate,
                "published": {
                    key: getattr(line.row, key)
                    for key in ("parameters", "epochs", "mean", "std", "best", "single", "runs", "source")
                },
                "ours": {
                    "parameters": line.parameters,
                    "epochs": line.trained,
                    "seeds": line.seeds,
                    "validation": ours(line.validation),
                    "chosen": ours(line.chosen),
                    "last": ours(line.last),
                    "maximum": ours(line.maximum),
                    "test": line.test,
                    "core_hours": line.hours,
                    "spikes": line.spikes,
                    "energy_nj": line.energy,
                    "runs": line.runs,
                },
            }
            for line in found.lines
        ],
    }
