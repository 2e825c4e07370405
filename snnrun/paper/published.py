"""What the papers and their authors' released logs report, for comparison with runs of this program.

Accuracies are in percent. "Best" is what the papers call so: the maximum over the epochs on the TEST set, of several
runs where the paper has several. Means are of such maxima. A row with a single figure that does not say which of the
two it is has it as `single`. The rows themselves are in `rows_strsbp` and `rows_others`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

STRSBP = "Zhang and Li 2019 (ST-RSBP)"
HM2BP = "Jin, Zhang and Li 2018 (HM2-BP)"
STBP = "Wu et al. 2018 (STBP)"

# What a published network is trained with, as `Published.variant` says it, beside its authors' settings.
BATCHES = "in batches"  # theirs take one sample at a time: days, for some
DISTORTED = "in batches of distorted images, weights averaged"
MIRRORED = "in batches of mirrored images, weights averaged"
SILENT = "silent neurons pass no error down"
UNREGULARISED = "without its regulariser"

# The names that the papers use, by what a run is known by, see `rule_of`.
NAMES = {
    "strsbp": "ST-RSBP",
    "hm2bp": "HM2-BP",
    "stbp": "STBP",
    "sdbp": "SDBP",
    "lee": "Membrane-potential BP",
    "slayer": "SLAYER",
    "lsm": "LSM",
    "spilinc": "SpiLinC",
    "mlp": "MLP, BP",
    "lra": "MLP, LRA-E",
    "cnn": "CNN, BP",
    "lstm": "LSTM",
    "gru": "GRN",
    "phased_lstm": "Phased LSTM",
}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Accuracies as they are printed. `runs` is how many the best is of."""

    best: float | None = None
    mean: float | None = None
    std: float | None = None
    single: float | None = None
    runs: int | None = None

    @property
    def level(self) -> float | None:
        """The figure that stands for all where one must: the best, else the single one, else the mean."""
        return next((value for value in (self.best, self.single, self.mean) if value is not None), None)

    @property
    def figures(self) -> str:
        """All of them in words, "no figure" where there is none."""
        said = []
        if self.best is not None:
            said.append(f"{self.best:.2f}" + (f", best of {self.runs} runs" if self.runs else ""))
        if self.mean is not None:
            said.append(f"mean {self.mean:.2f}" + (f" ± {self.std:.2f}" if self.std is not None else ""))
        if self.single is not None:
            said.append(f"{self.single:.2f} (mean or best: not said)")
        return "; ".join(said) or "no figure"


@dataclass(frozen=True, kw_only=True)
class Published(Figures):
    """One row of a table, a text or a log.

    `name` is what the row is called in its table. `rule` and `network` are what `rule_of` and `network_of` make of a
    run's parameters. `experiment` is the published setting in `conf/experiment`, None where the corpus was never
    published, and `settings` what the row changes in it. `variant` is for a published network that is trained with
    other settings than its authors', and says with which in words. `parameters` and `epochs` are as printed (the
    epochs of the ST-RSBP paper are those of the best, counted from 0). `best_epoch` and `log_epochs`, how long the run
    went on, are those of the released log, counted from 1; `curve` is its test accuracy by epoch, and `seconds` are the
    least and the median of its epochs, batch 1, on a Titan XP. The least counts for the hardware, since several jobs
    shared it at times.
    """

    name: str
    rule: str
    data: str
    network: str
    source: str
    experiment: str | None
    settings: tuple[str, ...] = ()
    variant: str = ""
    system: str = ""
    parameters: int | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    log_epochs: int | None = None
    curve: dict[int, float] = field(default_factory=dict)
    seconds: tuple[float, float] | None = None
    note: str = ""

    @property
    def title(self) -> str:
        """The system as its paper names it, and how its training differs from the published one."""
        name = self.system or NAMES[self.rule]
        return f"{name}, {self.variant}" if self.variant else name


@dataclass(frozen=True)
class Table:
    """A table of a paper, a section of its text, or what a log has. `name` is `PAPER/TABLE`."""

    name: str
    title: str
    rows: tuple[Published, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Record(Figures):
    """What later work reached on a corpus of the tables, with networks of its own."""

    system: str
    data: str
    network: str
    source: str
    epochs: int | None = None
    note: str = ""


def rule_of(params: Mapping[str, str]) -> str:
    """What the papers tell a run by: its model, and SDBP for STBP without errors from step to step."""
    name = params.get("model.name", "?")
    if name == "stbp" and params.get("model.temporal_gradient", "True").lower() == "false":
        return "sdbp"
    return name


def network_of(params: Mapping[str, str]) -> str:
    """The hidden layers that a run is known by: its topology, its liquids' neurons, or the units of other models."""
    if "model.neurons" in params:
        return f"R{int(params['model.neurons']) * int(params.get('model.liquids', '1'))}"
    units = re.findall(r"\d+", " ".join(params.get(f"model.{key}", "") for key in ("layers", "dense")))
    return params.get("model.network") or "-".join(units) or "?"


def tables() -> dict[str, Table]:
    """Every table by its name."""
    from snnrun.paper import rows_others, rows_strsbp

    return {table.name: table for table in (*rows_strsbp.TABLES, *rows_others.TABLES)}


def rows() -> list[Published]:
    """Every row that stands for a rule, a corpus and a network; variants of one row are left out."""
    return [row for table in tables().values() for row in table.rows if not (row.settings or row.variant)]


def row_of(rule: str, data: str, network: str) -> Published | None:
    """The published row of a rule and a network on a corpus, or None. Of several papers' the one with a curve."""
    found = [row for row in rows() if (row.rule, row.data, row.network) == (rule, data, network)]
    return max(found, key=lambda row: bool(row.curve), default=None)


def others_of(data: str, networks: set[tuple[str, str]]) -> list[Published]:
    """The rows of a corpus with a figure whose (rule, network) is none of these, each rule and network once."""
    found: dict[tuple[str, str], Published] = {}
    for row in rows():
        key = (row.rule, row.network)
        if row.data == data and row.level is not None and key not in networks:
            found.setdefault(key, row)
    return list(found.values())


def of_corpus(records: Sequence[Record], data: str) -> list[Record]:
    """The records of a corpus."""
    return [record for record in records if record.data == data]
