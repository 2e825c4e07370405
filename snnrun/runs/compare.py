"""Runs against one another: grouped by their settings over seeds, in one table for each corpus, ranked by validation.

A group never mixes corpora, their origins, digests or splits. A seed never counts twice: of runs with the same settings
and seed the latest counts, since the others are repetitions. The test samples never rank by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from snnrun.errors import UsageError, did_you_mean
from snnrun.metric_names import BEST_VALIDATION, TEST_CHOSEN, TEST_LAST
from snnrun.runs.collect import Run
from snnrun.runs.filters import value_of
from snnrun.runs.significance import holm, mean_std, paired, welch

# Parameters that do not change what is learnt, by their beginnings.
BOOKKEEPING = (
    *("outputs", "tracking.", "hardware.", "checkpoint.", "sweep.", "plugin", "data.root", "data.download", "tuned."),
)
NAMED = 5  # changed settings in a note
# Keys of `data` that are settings, and no other corpus.
AUGMENTATION = (
    *("data.mirror", "data.shift", "data.elastic", "data.rotation", "data.scale", "data.erase"),
    *("data.distortion", "data.time_shift", "data.channel_shift", "data.jitter", "data.drop", "data.speed"),
    "data.augment",
)


@dataclass
class Statistic:
    """One metric of a group: mean and standard deviation over n runs.

    `p` (Holm-corrected) and `difference` of the means are against the group that the others are compared with.
    """

    n: int
    mean: float
    std: float | None
    p: float | None = None
    test: str | None = None
    difference: float | None = None


@dataclass
class Group:
    """Runs that differ in their seed alone, or in what `mixed` names; `settings` tells them from the other groups.

    `best` marks the group with the best mean, `base` that which the others are tested against, `changes` has the
    settings in which a group differs from a base that was named.
    """

    settings: dict[str, str]
    runs: list[Run]
    mixed: dict[str, list[str]] = field(default_factory=dict)
    repeated: int = 0
    best: bool = False
    base: bool = False
    changes: dict[str, str] = field(default_factory=dict)
    statistics: dict[str, Statistic] = field(default_factory=dict)

    @property
    def seeds(self) -> list[str]:
        """The seeds of its runs."""
        return [run.params.get("seed", "?") for run in self.runs]

    def values(self, metric: str) -> dict[str, float]:
        """The metric of each run that has it, by seed; by seed and run where seeds recur."""
        once = len(set(self.seeds)) == len(self.seeds)
        return {
            seed if once else f"{seed} {place}": run.metrics[metric]
            for place, (seed, run) in enumerate(zip(self.seeds, self.runs, strict=True))
            if metric in run.metrics
        }


@dataclass
class Section:
    """The groups of one corpus, the best first; `ranked` says by which metric, None where nothing may rank them.

    Against a base that was named (`against`) the base comes first, and the others in the order in which they were run.
    """

    title: str
    corpus: dict[str, str]
    groups: list[Group]
    ranked: str | None
    notes: list[str]
    against: str | None = None


def corpus_of(run: Run) -> dict[str, str]:
    """What must agree for two accuracies to be of the same test: corpus, origin, digest, and how it is cut."""
    cut = {
        key: value
        for key, value in run.params.items()
        if key.startswith("data.") and not key.startswith((*BOOKKEEPING, *AUGMENTATION))
    }
    return cut | {"origin": run.origin, "digest": run.tags.get("data.digest", "unknown")}


def settings_of(run: Run) -> dict[str, str]:
    """All that makes a run what it is, but its seed and its corpus."""
    corpus = corpus_of(run)
    return {
        key: value
        for key, value in run.params.items()
        if key != "seed" and key not in corpus and not key.startswith(BOOKKEEPING)
    }


def commits_of(runs: Sequence[Run]) -> list[str]:
    """Those of snnrun itself, wherever the commands were given; none of an installed one that has no commit."""
    found = {run.tags.get("snnrun.git.commit", run.tags.get("git.commit", "none"))[:8] for run in runs}
    return sorted(found - {"none"})


def by_corpus(runs: Sequence[Run]) -> list[tuple[str, dict[str, str], list[Run]]]:
    """Title, identity and runs of each corpus, in the order of their names. No two titles are the same."""
    parts: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        parts.setdefault(tuple(sorted(corpus_of(run).items())), []).append(run)
    found = [(dict(identity), members) for identity, members in parts.items()]
    titled = [(_title(corpus, members[0], [other for other, _ in found]), corpus, members) for corpus, members in found]
    return sorted(titled, key=lambda part: part[0])


def _title(corpus: dict[str, str], run: Run, all_corpora: Sequence[dict[str, str]]) -> str:
    """`fsdd`, with what tells it from other cuts of the same corpus, and with what makes it less than the whole."""
    name = corpus.get("data.name")
    rivals = [other for other in all_corpora if other.get("data.name") == name]
    parts = []
    for key, value in corpus.items():
        if key in ("data.name", "origin"):
            continue
        limit = key in ("data.limit", "data.test_limit")
        if value != "null" if limit else any(other.get(key) != value for other in rivals):
            parts.append(f"{key.removeprefix('data.')} {value[:12] if key == 'digest' else value}")
    return ", ".join([run.data, *parts])


def finished(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs that came to their end, and what is said of the others."""
    counts: dict[str, int] = {}
    for run in runs:
        if run.status != "finished":
            counts[run.status] = counts.get(run.status, 0) + 1
    left = [run for run in runs if run.status == "finished"]
    if not counts:
        return left, []
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    return left, [f"left out: {told} (filter by status= to see them)"]


def groups_of(runs: Sequence[Run], by: Sequence[str] | None) -> list[Group]:
    """Runs of one corpus in groups: by the keys given, or by all settings, of which those that differ are named."""
    every = [settings_of(run) for run in runs]
    shown = list(by) if by is not None else differing(runs, every)
    parts: dict[tuple[str, ...], list[int]] = {}
    for place, (run, settings) in enumerate(zip(runs, every, strict=True)):
        key = tuple(_text(run, name) for name in shown) if by is not None else tuple(sorted(map(str, settings.items())))
        parts.setdefault(key, []).append(place)
    found = []
    for places in parts.values():
        members, repeated = _once([runs[place] for place in places])
        kept = [settings_of(run) for run in members]
        names = sorted(set().union(*kept))
        mixed = {name: sorted({settings.get(name, "-") for settings in kept}) for name in names}
        mixed = {name: values for name, values in mixed.items() if len(values) > 1 and name not in shown}
        found.append(Group({name: _text(members[0], name) for name in shown}, members, mixed, repeated))
    return found


def differing(runs: Sequence[Run], every: Sequence[Mapping[str, str]]) -> list[str]:
    """`model.name`, and the settings in which runs of the same rule and corpus differ: the rest follows from these."""
    return ["model.name", *(key for key in varied(runs, every) if key != "model.name")]


def varied(runs: Sequence[Run], every: Sequence[Mapping[str, str]]) -> list[str]:
    """The settings in which runs of the same rule and corpus differ, in the order of their names."""
    values: dict[str, dict[tuple[str, str], set[str]]] = {}
    for run, settings in zip(runs, every, strict=True):
        kind = (run.params.get("model.name", ""), run.params.get("data.name", ""))
        for key in settings:
            values.setdefault(key, {}).setdefault(kind, set()).add(settings[key])
    return sorted(key for key, kinds in values.items() if any(len(seen) > 1 for seen in kinds.values()))


def _once(runs: Sequence[Run]) -> tuple[list[Run], int]:
    """Of runs with the same settings and seed the latest, and how many were dropped. In the order of their seeds."""
    latest: dict[tuple[str, tuple[tuple[str, str], ...]], Run] = {}
    for run in sorted(runs, key=lambda run: run.started):
        latest[run.params.get("seed", "?"), tuple(sorted(settings_of(run).items()))] = run
    kept = sorted(latest.values(), key=lambda run: (len(run.params.get("seed", "")), run.params.get("seed", "")))
    return kept, len(runs) - len(kept)


def _text(run: Run, key: str) -> str:
    value = value_of(run, key)
    return "-" if value is None else str(value)


# ---- comparing ------------------------------------------------------------------------------------------------------


def compare(
    runs: Sequence[Run], by: Sequence[str] | None, metrics: Sequence[str] | None, against: str | None = None
) -> list[Section]:
    """One section a corpus. Groups are ranked by the first metric, by default the validation accuracy.

    Each metric of each other group is tested against the best group's, or against that of the group which has the
    setting `against`: paired by seed where both have the same seeds, else by Welch's test; p values are corrected
    (Holm) over the groups of the section.

    Raises:
        UsageError: not exactly one group of a section has `against`.
    """
    sections = []
    for title, corpus, members in by_corpus(runs):
        wanted = list(metrics) if metrics is not None else _default_metrics(members)
        groups = groups_of(members, by)
        for group in groups:
            for metric in wanted:
                values = list(group.values(metric).values())
                if values:
                    group.statistics[metric] = Statistic(len(values), *mean_std(values))
        ranked = wanted[0] if metrics is not None or wanted[0] == BEST_VALIDATION else None
        notes = _notes(groups)
        if ranked is None:
            notes.append(
                "no validation samples (data.validation=0): nothing ranks these, since the test samples must not"
            )
        else:
            _rank(groups, ranked)
        if against is not None:
            _put_first(groups, against, title)
        if against is not None or ranked is not None:
            _test(groups, wanted)
        sections.append(Section(title, corpus, groups, ranked, notes, against))
    return sections


def _default_metrics(runs: Sequence[Run]) -> list[str]:
    validated = any(BEST_VALIDATION in run.metrics for run in runs)
    unvalidated = any(BEST_VALIDATION not in run.metrics for run in runs)
    return [*([BEST_VALIDATION, TEST_CHOSEN] if validated else []), *([TEST_LAST] if unvalidated else [])]


def _rank(groups: list[Group], ranked: str) -> None:
    """Sort the groups and mark the best. A loss or a time is better when it is less."""
    sign = -1.0 if larger_is_better(ranked) else 1.0
    groups.sort(key=lambda group: sign * group.statistics[ranked].mean if ranked in group.statistics else float("inf"))
    if ranked in groups[0].statistics:
        groups[0].best = groups[0].base = True


def _put_first(groups: list[Group], against: str, title: str) -> None:
    """Sort the groups by when they began, but the base first, and name what differs from it."""
    having = [group for group in groups if against in group.settings.values()]
    if len(having) != 1:
        values = sorted({value for group in groups for value in group.settings.values()})
        count = "none" if not having else str(len(having))
        raise UsageError(
            f"--against {against}: {count} of the rows of {title} has it, and one must. Values: {', '.join(values)}."
            f"{did_you_mean(against, values)}"
        )
    for group in groups:
        group.base = group is having[0]
    groups.sort(key=lambda group: (not group.base, min(run.started for run in group.runs)))
    before = settings_of(groups[0].runs[0])
    for group in groups[1:]:
        group.changes = _changed(before, settings_of(group.runs[0]))


def _changed(before: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    """What settings have in place of others. Keys that only one of two models has follow from its name, which leads."""
    another = now.get("model.name") != before.get("model.name")
    names = before.keys() & now.keys() if another else before.keys() | now.keys()
    in_order = sorted(names, key=lambda name: (name != "model.name", name))
    return {name: now.get(name, "-") for name in in_order if now.get(name) != before.get(name)}


def _test(groups: Sequence[Group], metrics: Sequence[str]) -> None:
    """Test each metric of the groups against the base's, if there is one."""
    base = next((group for group in groups if group.base), None)
    for metric in metrics:
        if base is None or metric not in base.statistics:
            continue
        first = base.values(metric)
        others = [group for group in groups if group is not base and metric in group.statistics]
        tested = [(group.statistics[metric], *_tested(first, group.values(metric))) for group in others]
        for (found, _, test), p in zip(tested, holm([p for _, p, _ in tested]), strict=True):
            found.p, found.test = p, test if p is not None else None
            found.difference = found.mean - base.statistics[metric].mean


def _tested(first: dict[str, float], second: dict[str, float]) -> tuple[float | None, str]:
    if first.keys() == second.keys() and not any(" " in seed for seed in first):
        return paired(first, second), "paired"
    return welch(list(first.values()), list(second.values())), "Welch"


def larger_is_better(metric: str) -> bool:
    """Whether a metric counts what is wanted (accuracies, samples a second) rather than a cost."""
    return "accuracy" in metric or metric == "samples_per_s"


def _notes(groups: Sequence[Group]) -> list[str]:
    notes = []
    repeated = sum(group.repeated for group in groups)
    if repeated:
        notes.append(f"{_runs(repeated)} left out: same settings and seed as a later one, which counts")
    for group in groups:
        if group.mixed:
            told = "; ".join(f"{key} {', '.join(values)}" for key, values in list(group.mixed.items())[:3])
            more = ", ..." if len(group.mixed) > 3 else ""
            notes.append(f"{' '.join(group.settings.values())}: settings are mixed ({told}{more}), not seeds alone")
    notes += changes([run for group in groups for run in group.runs])
    commits = commits_of([run for group in groups for run in group.runs])
    if len(commits) > 1:
        notes.append(f"the runs come from {len(commits)} commits: {', '.join(commits[:4])}")
    return notes


def changes(runs: Sequence[Run]) -> list[str]:
    """Which runs were resumed with other settings, and that these count."""
    told = [
        f"{run.short} went on with {key} {now} in place of {before}, which counts"
        for run in runs
        for key, (before, now) in run.changed.items()
        if not key.startswith(BOOKKEEPING)
    ]
    return told if len(told) <= NAMED else [*told[:NAMED], f"and {len(told) - NAMED} more such changes"]


def _runs(count: int) -> str:
    return f"{count} run{'s' if count != 1 else ''}"


# ---- the best -------------------------------------------------------------------------------------------------------


@dataclass
class Best:
    """The runs of a corpus, or of one group in it, with the highest validation accuracy: several where equal."""

    title: str
    settings: dict[str, str]
    runs: list[Run]
    candidates: int
    unvalidated: list[Run]


def best(runs: Sequence[Run], by: Sequence[str]) -> list[Best]:
    """For each corpus, and within it for each value of the keys `by`, the runs that the validation samples choose."""
    found = []
    for title, _, members in by_corpus(runs):
        parts: dict[tuple[str, ...], list[Run]] = {}
        for run in members:
            parts.setdefault(tuple(_text(run, key) for key in by), []).append(run)
        for values, part in sorted(parts.items()):
            candidates = [run for run in part if BEST_VALIDATION in run.metrics]
            highest = max((run.metrics[BEST_VALIDATION] for run in candidates), default=None)
            found.append(
                Best(
                    title,
                    dict(zip(by, values, strict=True)),
                    [run for run in candidates if run.metrics[BEST_VALIDATION] == highest],
                    len(candidates),
                    [run for run in part if BEST_VALIDATION not in run.metrics],
                )
            )
    return found
