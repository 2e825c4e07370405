"""What `snnrun report` says: runs over seeds beside the published row of their rule and network, corpus by corpus."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from snnrun.metric_names import (
    BEST_VALIDATION,
    EPOCH_SECONDS,
    TEST_ACCURACY,
    TEST_CHOSEN,
    TEST_LAST,
    TEST_MAXIMUM,
)
from snnrun.paper.published import NAMES, Published, Record, network_of, of_corpus, others_of, row_of, rule_of
from snnrun.paper.rows_others import LATER
from snnrun.runs.collect import Run
from snnrun.runs.compare import Group, by_corpus, groups_of
from snnrun.runs.significance import mean_std

KNOWN_BY = ("model.name", "model.network", "model.layers", "model.dense")  # what an entry's title says
SHOWN = 10  # settings of one rule and network; of more, those with the best validation accuracy


@dataclass
class Ours:
    """One setting over its seeds; accuracies in percent as (mean, standard deviation or None), None where not known.

    `curve` has for each epoch the mean, least and greatest test accuracy of the runs that reached it.
    """

    label: str
    group: Group
    validation: tuple[float, float | None] | None
    chosen: tuple[float, float | None] | None
    last: tuple[float, float | None] | None
    maximum: tuple[float, float | None] | None
    epochs: str
    seconds: float | None
    curve: list[tuple[float, float, float]]


@dataclass
class Entry:
    """One rule and network on one corpus: ours, the best validation accuracy first, and what was published."""

    rule: str
    network: str
    published: Published | None
    ours: list[Ours]
    more: int = 0

    @property
    def name(self) -> str:
        """The rule as the papers write it, and the network."""
        return f"{NAMES.get(self.rule, self.rule)}, {self.network}"


@dataclass
class Part:
    """One corpus; `warning` says why published figures are left out, if so."""

    title: str
    warning: str | None
    entries: list[Entry]
    others: list[Published] = field(default_factory=list)
    later: list[Record] = field(default_factory=list)


def build(runs: Sequence[Run], history: Callable[[Run], Sequence[dict[str, float]]]) -> list[Part]:
    """The parts of the report. `history` gives a run's metrics by epoch."""
    parts = []
    for title, corpus, members in by_corpus(runs):
        name = corpus.get("data.name", "?")
        warning = _warning(corpus, known=bool(others_of(name, set())))
        pairs: dict[tuple[str, str], list[Run]] = {}
        for run in members:
            pairs.setdefault((rule_of(run.params), network_of(run.params)), []).append(run)
        entries = []
        for (rule, network), chosen in sorted(pairs.items()):
            published = None if warning else row_of(rule, name, network)
            groups = sorted(groups_of(chosen, None), key=lambda group: -_mean(group, BEST_VALIDATION))
            ours = [_ours(group, history) for group in groups[:SHOWN]]
            entries.append(Entry(rule, network, published, ours, len(groups) - len(ours)))
        part = Part(title, warning, entries)
        if not warning:
            part.others, part.later = others_of(name, set(pairs)), of_corpus(LATER, name)
        parts.append(part)
    return parts


def _warning(corpus: dict[str, str], *, known: bool) -> str | None:
    """Why figures published for the whole real corpus cannot stand beside these runs, or None.

    `known` says whether there are any for the corpus of this name.
    """
    origin = corpus["origin"]
    if origin == "surrogate":
        return "Surrogate data, made by a program in the form of the corpus: comparable with no published figure."
    if origin == "synthetic":
        return "Synthetic data, made by a program: comparable with no published figure."
    if known and origin == "unknown":
        return "Where these data come from is not recorded, so they are not compared with published figures."
    limit = corpus.get("data.limit", "null")
    if known and limit != "null":
        return f"Trained on {limit} samples only: not compared with figures published for the whole corpus."
    return None


def _ours(group: Group, history: Callable[[Run], Sequence[dict[str, float]]]) -> Ours:
    by_run = [list(history(run)) for run in group.runs]
    seconds = [epoch[EPOCH_SECONDS] for epochs in by_run for epoch in epochs if EPOCH_SECONDS in epoch]
    settings = {key: value for key, value in group.settings.items() if key not in KNOWN_BY}
    epochs = sorted({run.params.get("train.epochs", "?") for run in group.runs}, key=lambda text: (len(text), text))
    return Ours(
        label=", ".join(f"{key}={value}" for key, value in settings.items()),
        group=group,
        validation=_statistic(group, BEST_VALIDATION),
        chosen=_statistic(group, TEST_CHOSEN),
        last=_statistic(group, TEST_LAST),
        maximum=_statistic(group, TEST_MAXIMUM),
        epochs=", ".join(epochs),
        seconds=statistics.median(seconds) if seconds else None,
        curve=_curve(by_run),
    )


def _mean(group: Group, metric: str) -> float:
    values = list(group.values(metric).values())
    return mean_std(values)[0] if values else float("-inf")


def _statistic(group: Group, metric: str) -> tuple[float, float | None] | None:
    values = [100.0 * value for value in group.values(metric).values()]
    return mean_std(values) if values else None


def _curve(by_run: Sequence[Sequence[dict[str, float]]]) -> list[tuple[float, float, float]]:
    curves = [[100.0 * epoch[TEST_ACCURACY] for epoch in epochs if TEST_ACCURACY in epoch] for epochs in by_run]
    points = []
    for place in range(max((len(curve) for curve in curves), default=0)):
        values = [curve[place] for curve in curves if place < len(curve)]
        points.append((mean_std(values)[0], min(values), max(values)))
    return points
