"""What a table takes: the settings of its rows, the runs that are there already, and what is missing.

A run counts for a row if it is finished and has the row's settings, whatever command made it. Where it was recorded, on
which device it ran and by which commit do not matter. An option that is newer than the run counts as its default. With
patience, a run counts that came to its last epoch or went on for as long after validation had ceased to rise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from snnrun import tracking
from snnrun.config import options
from snnrun.config.compose import compose
from snnrun.data import catalogue, data_root
from snnrun.errors import SnnrunError, UsageError, did_you_mean, unknown
from snnrun.paper.published import Published, Table, network_of, rule_of, tables
from snnrun.runs.collect import Run, history
from snnrun.runs.compare import BOOKKEEPING
from snnrun.runs.defaults import completed
from snnrun.runs.ends import trained_long

VALIDATION = "data.validation=0.1"
# What a row itself says, so that an argument must not.
OWN = (
    *("seed", "experiment", "data", "model", "encoder", "train.epochs", "train.patience"),
    *("outputs", "search", "sweep", "hydra"),
)
LAUNCHER = "hydra.launcher."  # keys of the sweep alone
SURROGATE = " scripts/make_{}_surrogate.py makes a stand-in, which --surrogate allows."
SURROGATES = {"ti46_alpha": "ti46", "ti46_digits": "ti46", "ntidigits": "ntidigits"}


@dataclass(frozen=True)
class Request:
    """What is asked for: how often and how long each row is trained, and how.

    `epochs` None is the row's own number. `patience` ends a run once validation has not risen for so many epochs, None:
    never. `paper_settings` leaves the published settings as they are, which train on
    all samples. `extra` are overrides for all rows.
    """

    seeds: int
    epochs: int | None = None
    paper_settings: bool = False
    surrogate: bool = False
    extra: tuple[str, ...] = ()
    patience: int | None = None


@dataclass
class Entry:
    """A row with its settings. `words` are its overrides but for the seed, `values` its config with seed 0.

    `runs` has the finished runs of these settings by seed. `here` is what `catalogue.look` finds of its corpus.
    """

    row: Published
    words: tuple[str, ...]
    values: dict[str, Any]
    here: Mapping[str, Any]
    runs: dict[int, Run] = field(default_factory=dict)
    seeds: int = 0

    @property
    def missing(self) -> list[int]:
        """The seeds that are still to be trained."""
        return [seed for seed in range(self.seeds) if seed not in self.runs]

    @property
    def epochs(self) -> int:
        """How long each run takes."""
        return int(self.values["train"]["epochs"])

    @property
    def patience(self) -> int | None:
        """After how many epochs without a rise of validation a run ends; None: never."""
        chosen: int | None = self.values["train"]["patience"]
        return chosen

    @property
    def origin(self) -> str | None:
        """Where the samples that are here come from; None where nothing is here yet."""
        return "recorded" if self.here["state"] == "at hand" else self.here.get("origin")


def table_named(name: str) -> Table:
    """The table of this name. Raises UsageError if there is none."""
    known = tables()
    if name not in known:
        raise UsageError(unknown("table", name, known))
    return known[name]


def rows_named(table: Table, words: Sequence[str] | None) -> list[Published]:
    """The rows that can be trained: all, or those of these names, or whose names begin with one and `_`.

    Raises:
        UsageError: a word names no row, or one that cannot be trained here.
        SnnrunError: no row of the table can be trained here.
    """
    able = [row for row in table.rows if trainable(row)]
    if words is None:
        if not able:
            raise SnnrunError(f"{table.name}: no row of it can be trained here. {table.note}".strip())
        return able
    chosen: list[Published] = []
    for word in words:
        named = [row for row in table.rows if row.name == word or row.name.startswith(f"{word}_")]
        if not named:
            names = [row.name for row in table.rows]
            raise UsageError(
                f"--rows: {table.name} has no row {word!r}. Allowed: {', '.join(names)}.{did_you_mean(word, names)}"
            )
        if not any(row in able for row in named):
            raise UsageError(f"--rows: {word} of {table.name} cannot be trained here: it has no experiment.")
        chosen += [row for row in named if row in able and row not in chosen]
    return [row for row in table.rows if row in chosen]


def trainable(row: Published) -> bool:
    """Whether there are settings for a row."""
    return row.experiment in _experiments()


@cache
def _experiments() -> frozenset[str]:
    return frozenset(options.files("experiment"))


def check_extra(extra: Sequence[str]) -> None:
    """Raise UsageError for an argument that is no override, or one that the rows themselves set."""
    for word in extra:
        key, equals, _ = word.partition("=")
        if not equals or word.startswith("-"):
            raise UsageError(f"{word}: no override. Write KEY=VALUE, such as train.batch_size=32.")
        own = key.lstrip("+~") in OWN or key.startswith(("hydra", "search.", "sweep."))
        if own and not key.startswith(LAUNCHER):
            said = {
                "seed": "how many by --seeds",
                "train.epochs": "it by --epochs",
                "train.patience": "it by --patience",
            }
            hint = f" Say {said[key]}." if key in said else ""
            raise UsageError(f"{key}: each row has its own.{hint}")


def entry_of(row: Published, request: Request) -> Entry:
    """A row with its settings, without its runs. Raises UsageError if the settings do not fit."""
    words = [f"experiment={row.experiment}", *row.settings]
    epochs = request.epochs
    if not request.paper_settings:
        words += [] if any(word.startswith("data.validation=") for word in request.extra) else [VALIDATION]
        epochs = epochs or (None if row.variant else row.epochs)
    words += [f"train.epochs={epochs}"] if epochs else []
    words += [f"train.patience={request.patience}"] if request.patience else []
    values = compose([*words, *(word for word in request.extra if not word.startswith(LAUNCHER))])
    here = _look(values["data"]["name"], data_root(values["data"].get("root")))
    return Entry(row, tuple(words), values, here, seeds=request.seeds)


@cache
def _look(name: str, root: Path) -> Mapping[str, Any]:
    return catalogue.look(name, root)


def state_of(name: str) -> str:
    """What is here of a corpus, in words; never without the word where it is a surrogate."""
    here = _look(name, data_root(None))
    return f"{here['state']} (surrogate)" if here.get("origin") == "surrogate" else str(here["state"])


def alike(run: Run, row: Published) -> bool:
    """Whether a run is finished and of the row's rule, corpus and network, with whatever settings."""
    theirs = (rule_of(run.params), run.params.get("data.name"), network_of(run.params))
    return run.status == "finished" and theirs == (row.rule, row.data, row.network)


def find_runs(entry: Entry, runs: Iterable[Run], *, surrogate: bool) -> None:
    """Give an entry the finished runs of its settings: for each of its seeds the latest.

    Runs on a surrogate count only if that is asked for and no other data are here. Runs on other samples than the
    latest run had are left out.
    """
    wanted = settings(tracking.flatten(entry.values))
    origin = "surrogate" if surrogate and entry.origin in (None, "surrogate") else "recorded"
    fitting = [
        run
        for run in sorted(runs, key=lambda run: run.started)
        if alike(run, entry.row)
        and run.origin == origin
        and settings(completed(run).params) == wanted
        and trained_long(run, entry.epochs, entry.patience, partial(history, run))
    ]
    digest = fitting[-1].tags.get("data.digest") if fitting else None
    for run in fitting:
        seed = run.params.get("seed", "")
        if run.tags.get("data.digest") == digest and seed.isdigit() and int(seed) < entry.seeds:
            entry.runs[int(seed)] = run


def settings(params: Mapping[str, str]) -> dict[str, str]:
    """What decides what a run learns, but for its seed, and for the patience that may end it."""
    apart = ("seed", "train.patience")
    return {
        key: value
        for key, value in params.items()
        if key not in apart and not key.startswith((*BOOKKEEPING, "search.", "hydra."))
    }


def check_corpora(entries: Sequence[Entry], *, surrogate: bool) -> None:
    """Raise SnnrunError if what is missing of a table cannot be trained, since its corpus is not here."""
    for entry in entries:
        name, state = entry.values["data"]["name"], entry.here["state"]
        if not entry.missing:
            continue
        hint = SURROGATE.format(SURROGATES[name]) if name in SURROGATES else ""
        if state == "missing" and not entry.values["data"]["download"]:
            raise SnnrunError(
                f"{entry.row.name}: its corpus {name} is not here ({entry.here['licence']}). "
                f"`snnrun data verify {name}` says what to do.{hint}"
            )
        if state == "damaged":
            raise SnnrunError(f"{entry.row.name}: {entry.here['message'].splitlines()[0]}")
        if entry.origin == "surrogate" and not surrogate:
            raise SnnrunError(
                f"{entry.row.name}: what is here of {name} is a surrogate, comparable with no published figure. Allow "
                f"it by --surrogate, or get the corpus: {entry.here['licence']}."
            )
