"""What a tuning is asked for, the sweep that it searches by, and the sweep that confirms what was found."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from snnrun.config import options
from snnrun.config.compose import compose
from snnrun.errors import SnnrunError, UsageError, first_line
from snnrun.record import atomic, names
from snnrun.sweep import points
from snnrun.sweep.points import DONE, Point, key_of

# Epochs of a trial, unless said otherwise: enough for settings that learn slowly to show it, and for the median rule
# to end those that do not learn.
EPOCHS = 5
SPACE = "tune"  # of conf/search/space
UNTESTED = "train.test=end"  # test samples choose nothing here, and take their time
# Overrides that say where a run reads and writes, and change none of its settings.
PLACES = ("data.root", "data.download", "hardware", "tracking", "checkpoint", "plugin", "hydra.launcher.")
# The overrides that a trial made; None: it had the settings of now.
Settings = Sequence[str] | None
# What the procedure itself says.
OWN = {
    "seed": "--seed",
    "search": "--trials",
    "sweep": "",
    "hydra": "",
    "outputs": "--outputs",
    "experiment": "",
    "tuned": "",
}


@dataclass(frozen=True)
class Request:
    """What is asked for.

    `words` are the overrides, model and corpus among them. A trial takes `epochs` and `samples` (None: all of them),
    and there are `trials` of them, of which none begins after `minutes`. `confirm` is the number of seeds over which
    the best `finalists` are compared with the settings of now, `seed` that of the search. `also` are sweep overrides:
    what is searched beside the space of the model.
    """

    words: tuple[str, ...]
    trials: int
    minutes: float | None
    epochs: int
    samples: int | None
    confirm: int
    seed: int
    finalists: int = 1
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A request with the config `values` that it begins from, in which model and corpus are known."""

    request: Request
    values: Mapping[str, Any]
    outputs: Path

    @property
    def pair(self) -> str:
        """The name of the pair, as its tuned file has it."""
        return f"{self.values['model']['name']}_{self.values['data']['name']}"

    @property
    def settings(self) -> list[str]:
        """The overrides that change settings of the pair."""
        words = [word for word in self.request.words if not word.lstrip("+").startswith(PLACES)]
        return [word for word in words if key_of(word) not in ("model", "data")]

    @property
    def groups(self) -> list[str]:
        """The options that were chosen: model and corpus, and what else a tuned file cannot choose."""
        pair = [f"{group}={self.values[group]['name']}" for group in ("model", "data")]
        return [*pair, *(word for word in self.settings if "." not in key_of(word))]

    @property
    def command(self) -> str:
        """The command that asks for this, wherever it reads and writes."""
        request = self.request
        given = {
            "--trials": request.trials,
            "--minutes": None if request.minutes is None else f"{request.minutes:g}",
            "--epochs": request.epochs,
            "--samples": request.samples,
            "--confirm": request.confirm,
            "--finalists": request.finalists,
            "--seed": request.seed,
        }
        pair = [f"{group}={self.values[group]['name']}" for group in ("model", "data")]
        words = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
        words += [word for also in request.also for word in ("--also", also)]
        return shlex.join(["snnrun", "tune", *pair, *self.settings, *words])

    @property
    def searched(self) -> list[str]:
        """The arguments that say which trials there are, without how many."""
        request = self.request
        limit = [] if request.samples is None else [f"data.limit={request.samples}"]
        also = ["search.with_space=true", *request.also] if request.also else []
        return [
            *("search=optuna", f"search/space={SPACE}", "search.baseline=true", "search.retry=false"),
            *("search.prune=true", "search.prune_after=1", UNTESTED, *request.words, *limit),
            *also,
            *(f"train.epochs={request.epochs}", f"seed={request.seed}"),
        ]

    @property
    def budget(self) -> list[str]:
        """The arguments that say how many trials there are."""
        request = self.request
        minutes = "null" if request.minutes is None else f"{request.minutes:g}"
        return [
            f"search.trials={request.trials}",
            f"search.startup={max(1, request.trials // 3)}",
            f"search.minutes={minutes}",
        ]

    @property
    def seeds(self) -> list[int]:
        """The seeds of the confirmation. The finalists are the luckiest of the search's own, so it is none of them."""
        return [(self.request.seed + 1 + place) % 2**32 for place in range(self.request.confirm)]

    def confirmed(self, finalists: Sequence[Settings]) -> list[str]:
        """The arguments of the sweep that compares the finalists with the settings of now, at full length."""
        seeds = f"seed=choice({','.join(map(str, self.seeds))})"
        listed = [f"before: {seeds}", *(f"tuned: {' '.join(found)} {seeds}" for found in finalists if found)]
        return ["search=list", f"search.points={json.dumps(listed)}", UNTESTED, *self.request.words]


def plan(request: Request, outputs: Path) -> Plan:
    """The plan of a request.

    Raises:
        UsageError: an override is wrong or is the procedure's own, there are no validation samples, or nothing is
            known to search for the model.
    """
    for word in request.words:
        key = key_of(word)
        own = key if key in OWN else key.partition(".")[0].partition("/")[0]
        if "=" not in word or word.startswith("-"):
            raise UsageError(f"{word}: no override. Write KEY=VALUE, such as model=stbp data=digits.")
        if own in OWN and not key.startswith(PLACES):
            remedy = f" Say it by {OWN[own]}." if OWN[own] else " Leave it out."
            raise UsageError(f"{key}: a tuning has its own.{remedy}")
    values = compose([word for word in request.words if not word.startswith("hydra.launcher.")])
    for word in request.also:
        _check_also(word, values)
    made = Plan(request, values, outputs)
    if values["data"].get("validation") == 0:
        raise UsageError(
            "data.validation: is 0, and settings are chosen by validation samples, never by the test samples. Set it "
            "to a share of the training samples, such as data.validation=0.1."
        )
    if values["model"]["name"] not in space():
        raise UsageError(
            f"tune: for model={values['model']['name']} nothing is known that could be searched. There is for "
            f"{', '.join(space())}. snnrun train -m search=optuna searches what the command line names."
        )
    return made


def _check_also(word: str, values: Mapping[str, Any]) -> None:
    """Raise UsageError unless a word names several values of a key that a tuned file can set."""
    section, _, name = key_of(word).partition(".")
    if section not in ("model", "train", "encoder") or name not in values[section]:
        raise UsageError(
            f"--also {word}: model={values['model']['name']} has no key {key_of(word)!r} to search. Write it as "
            "--also 'model.delays=choice(none,trained)'."
        )
    if not any(mark in word for mark in (",", "interval(", "range(")):
        raise UsageError(
            f"--also {word}: one value is nothing to search. Give it without --also, or several, such as "
            f"{key_of(word)}=choice(A,B) or {key_of(word)}=interval(LOW,HIGH)."
        )


def space() -> dict[str, Any]:
    """What is searched, by model."""
    found: dict[str, Any] = yaml.safe_load(options.files("search/space")[SPACE])
    return found


# ---- the sweeps ------------------------------------------------------------------------------------------------------


def find(made: Plan) -> Path | None:
    """The folder of the newest tuning of the pair; None if there is none.

    Raises:
        UsageError: it was begun with other settings.
        SnnrunError: what it was begun with cannot be read.
    """
    folders = sorted(
        path for path in made.outputs.glob(f"sweeps/*_tune_{made.pair}") if (path / names.TUNING).is_file()
    )
    if not folders:
        return None
    before, now = _read(folders[-1] / names.TUNING), record(made)
    differing = [word for word in before["searched"] if word not in now["searched"]]
    differing += [word for word in now["searched"] if word not in before["searched"]]
    differing += [] if before["space"] == now["space"] else ["what is searched"]
    differing += [] if before["begins"] == now["begins"] else ["what the pair has now"]
    if differing:
        raise UsageError(
            f"tune: the study in {folders[-1]} was begun with other settings ({', '.join(differing)}). Give the same "
            "again to go on with it, or begin another by --new."
        )
    return folders[-1]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SnnrunError(f"{path}: cannot be read ({first_line(error)}). Begin another study by --new.") from None
    if not isinstance(found, dict) or not {"searched", "space", "begins"} <= found.keys():
        raise SnnrunError(f"{path}: says nothing of a tuning. Begin another study by --new.")
    return found


def record(made: Plan) -> dict[str, Any]:
    """What a tuning keeps of its request, to go on only with the same."""
    moved = [word for word in made.searched if word.lstrip("+").startswith(PLACES)]
    searched = [word for word in made.searched if word not in moved]
    begins = points.identity({key: made.values[key] for key in ("encoder", "model", "train")})
    return {"searched": searched, "space": space()[made.values["model"]["name"]], "begins": begins}


def keep(made: Plan, folder: Path) -> None:
    """Write what the tuning was asked for to its folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_json(folder / names.TUNING, record(made))


def drop_if_empty(folder: Path) -> None:
    """Remove the folder that this tuning has made if its sweep has not begun, since its arguments were wrong."""
    if not (folder / names.SWEEP).is_file():
        shutil.rmtree(folder, ignore_errors=True)


# ---- what they have found --------------------------------------------------------------------------------------------


def trials(folder: Path) -> list[Point]:
    """The last attempt at each trial."""
    return points.latest(points.attempts(folder))


def complete(made: Plan, folder: Path) -> bool:
    """Whether the search has made all its trials. Whether its time is up the sweep itself knows."""
    return len(tried(folder)) >= made.request.trials


def tried(folder: Path) -> list[Point]:
    """The trials that came to an end, of whatever kind."""
    return [point for point in trials(folder) if point.status in (*DONE, "FAILED")]


def at_work(folder: Path) -> bool:
    """Whether some points of a sweep wait, as after a launcher that failed, or are at work in another process."""
    return any(point.status in ("WAITING", "RUNNING") for point in trials(folder))


def ranked(folder: Path) -> list[Point]:
    """The trials that came to their end, best first."""
    finished = [point for point in trials(folder) if point.status == "FINISHED" and point.objective is not None]
    return sorted(finished, key=lambda point: (-(point.objective or 0.0), point.number))


def finalists(made: Plan, folder: Path) -> list[Settings]:
    """The settings of the best trials, no two the same, as many as were asked for if there are so many.

    The best of one seed and a few epochs is often the luckiest, which does not hold over seeds: several are confirmed.
    """
    found: list[Settings] = []
    for trial in ranked(folder):
        settings = words_of(trial, made)
        if settings not in found:
            found.append(settings)
    return found[: made.request.finalists]


def words_of(trial: Point, made: Plan) -> Settings:
    """The settings of a trial as overrides; None if they are those of now."""
    now = {key: made.values[key] for key in ("encoder", "model", "train")}
    common = [word for word in made.request.words if not word.startswith("hydra.launcher.")]
    values = compose([*common, *trial.swept])
    return None if all(values[key] == now[key] for key in now) else list(trial.swept)


def outcome(made: Plan, folder: Path, settings: Settings) -> list[Point]:
    """The runs at full length with some settings, over the seeds that are asked for."""
    seeds = {f"seed={seed}" for seed in made.seeds}
    runs = [point for point in trials(folder) if seeds & set(point.overrides)]
    if settings is None:
        return [point for point in runs if point.label == "before"]
    return [point for point in runs if point.label == "tuned" and set(settings) <= set(point.overrides)]


def confirmed(made: Plan, folder: Path, finalists: Sequence[Settings]) -> bool:
    """Whether every run of the confirmation has come to its end, of whatever kind."""
    groups = [outcome(made, folder, settings) for settings in (None, *filter(None, finalists))]
    ended = [[point for point in group if point.status in (*DONE, "FAILED")] for group in groups]
    return all(len(group) >= made.request.confirm for group in ended)
