"""The runs that were made: read from their folders, from MLflow, and from records; joined.

A run below `outputs` is its folder (`config.yaml`, `metrics.jsonl`) together with what the store there says of it
(status, tags), if the store can be read; a run that only one of the two knows is listed by that one. A store elsewhere,
named by its address, is read alone.
"""

from __future__ import annotations

import contextlib
import gc
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from snnrun import tracking
from snnrun.errors import SnnrunError, UsageError
from snnrun.metric_names import CURVES
from snnrun.record import journal, names, run_lock
from snnrun.record.journal import Warn
from snnrun.record.run_folder import NAMED, RunFolder, folders, matching
from snnrun.runs import ends, records
from snnrun.tracking.sweep_run import LABEL_TAG

STATUS = {"FINISHED": "finished", "KILLED": "interrupted", "FAILED": "failed"}
STATUSES = ("finished", "interrupted", "failed", "running", "killed", "unfinished")
RESUMED_TAG = "snnrun.resumed"
PAGE = 1000  # runs of one answer of the store
# Corpora whose origin their name tells; of the others it is known from the record alone.
ORIGINS = {"utterances": "synthetic", "digits": "recorded", "mnist": "recorded", "fashion_mnist": "recorded"}


@dataclass
class Run:
    """One run: `params` flat and as text, `metrics` the last values, accuracies as shares.

    `status` is one of `STATUSES`: `running` is what the lock in the run's folder says, or its store where the folder is
    not on this machine; `killed` is a run whose process left without a word; `unfinished` one without an end of which
    nobody here can know whether another machine works on it. `epochs` and `parameters` are those of a record, which has
    neither folder nor store. `changed` has the parameters with which `snnrun resume`
    went on: what they were, and what they are now, as in `params`. `started` is in seconds since 1970. `run_id` and
    `experiment_id` are MLflow's, None where no store has been read that knows the run.
    """

    name: str
    status: str
    started: float
    run_id: str | None = None
    experiment_id: str | None = None
    folder: Path | None = None
    ended: float | None = None
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    uri: str | None = None
    changed: dict[str, tuple[str, str]] = field(default_factory=dict)
    epochs: list[dict[str, float]] = field(default_factory=list)
    parameters: int | None = None

    @property
    def short(self) -> str:
        """What `find` knows it by: eight characters of its id, or its folder's name."""
        return self.run_id[:8] if self.run_id else self.name

    @property
    def origin(self) -> str:
        """Where its data come from: `recorded`, `synthetic`, `surrogate` or `unknown`."""
        return self.tags.get("data.origin") or ORIGINS.get(self.params.get("data.name", ""), "unknown")

    @property
    def data(self) -> str:
        """Its corpus; what is not recorded is never named without the word."""
        name = self.params.get("data.name", "?")
        return name if self.origin == "recorded" else f"{name} ({label_of(self.origin)})"

    def facts(self) -> dict[str, str]:
        """What can be asked for beside parameters and metrics."""
        return {
            "id": self.run_id or "",
            "name": self.name,
            "folder": str(self.folder or ""),
            "status": self.status,
            "origin": self.origin,
            "started": stamp(self.started),
            "commit": self.tags.get("git.commit", ""),
            "dirty": self.tags.get("git.dirty", ""),
            "device": self.tags.get("device", ""),
            "sweep": self.tags.get("mlflow.parentRunId", ""),
            "label": self.tags.get(LABEL_TAG, ""),
        }


def label_of(origin: str) -> str:
    """How an origin stands beside the name of a corpus."""
    return "origin unknown" if origin == "unknown" else origin


def stamp(seconds: float) -> str:
    """`2026-11-25 13:02:12`, local time."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def collect(outputs: Path, uri: str | None, warn: Warn) -> list[Run]:
    """All runs, the latest first: those below `outputs`, or those of the store `uri` alone.

    A run's folder that cannot be read costs one warning; so does the store below `outputs`.

    Raises:
        SnnrunError: there is no run, or the store `uri` cannot be read.
    """
    if uri is not None:
        runs = _stored(uri)
        if not runs:
            raise SnnrunError(f"{uri}: no run of snnrun in this store.")
        for run in runs:
            place = _folder_elsewhere(run) if run.status == "running" else None
            if place is not None:
                run.status = _status(place.path, run, run_lock.at_work(place.path))
    else:
        runs = _below(outputs, warn)
        if not runs:
            raise SnnrunError(
                f"no runs yet below {outputs}: run snnrun train first, or say where they are by --outputs FOLDER or "
                "--uri ADDRESS."
            )
    return sorted(runs, key=lambda run: -run.started)


def find(runs: Sequence[Run], name: str) -> Run:
    """The run that `name` means: a folder, or the beginning of its name, its folder's name or its MLflow id.

    `last` is the latest.

    Raises:
        UsageError: there is no such run, or several.
    """
    if name == "last":
        return max(runs, key=lambda run: run.started)
    matches = [run for run in runs if _lies_in(run, Path(name))]
    if not matches:
        matches = matching(name, runs, _names)
    if len(matches) == 1:
        return matches[0]
    if not matches:
        latest = ", ".join(run.short for run in runs[:NAMED])
        raise UsageError(
            f"{name}: no run of this folder, name or MLflow id. The latest: {latest}. `snnrun runs list` has all; "
            "runs elsewhere are found by --outputs FOLDER or --uri ADDRESS."
        )
    some = ", ".join(f"{run.short} ({run.name})" if run.run_id else run.name for run in matches[:NAMED])
    more = ", ..." if len(matches) > NAMED else ""
    raise UsageError(f"{name}: {len(matches)} runs begin so: {some}{more}. Give more of one.")


def one(name: str, outputs: Path, uri: str | None, warn: Warn) -> Run:
    """The run that `name` means, as `find` does, or any folder of a run wherever it lies.

    Raises:
        UsageError: there is no such run, or several.
        SnnrunError: there are no runs at all, or the store `uri` cannot be read.
    """
    path = Path(name)
    if uri is not None or not (path / names.CONFIG).is_file():
        return find(collect(outputs, uri, warn), name)
    there = RunFolder(path)
    known = next((run for run in _below(there.outputs or outputs, warn) if _lies_in(run, path)), None)
    if known is None:
        return _of_folder(there, warn)
    if known.folder is None:
        _join(known, there, warn)
    return known


def _lies_in(run: Run, path: Path) -> bool:
    """Whether a folder is the run's, or says that it is."""
    if not path.is_dir():
        return False
    return run.folder == path.resolve() or (run.run_id is not None and run.run_id == RunFolder(path).run_id)


def _names(run: Run) -> list[str]:
    return [run.name, run.run_id or run.name, run.folder.name if run.folder else run.name]


def history(run: Run) -> list[dict[str, float]]:
    """The metrics of each epoch, from the run's folder, else from its store; values that are no numbers are left out.

    Raises:
        SnnrunError: the store cannot be read.
    """
    if run.epochs:
        return run.epochs
    if run.folder is not None:
        epochs, _ = journal.figures(run.folder)
        if epochs:
            return epochs
    if run.run_id is None or run.uri is None:
        return []
    by_epoch: dict[int, dict[str, float]] = {}
    with _reading(run.uri) as client:
        for key in CURVES:
            if key in run.metrics:
                for point in client.get_metric_history(run.run_id, key):
                    if math.isfinite(point.value):
                        by_epoch.setdefault(point.step, {})[key] = point.value
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


# ---- folders --------------------------------------------------------------------------------------------------------


def _below(outputs: Path, warn: Warn) -> list[Run]:
    """The runs of the folders below `outputs`, joined with the store there and the one that the environment names.

    Runs of records are among them.
    """
    stored: dict[str | None, Run] = {}
    own = [tracking.store_uri(outputs)] if tracking.store_file(outputs).exists() else []
    for uri in [*filter(None, [tracking.usual_uri()]), *own]:
        try:
            stored |= {run.run_id: run for run in _stored(uri)}
        except SnnrunError as error:
            warn(f"{error} What the runs' folders say is shown.")
    alone = []
    for found in folders(outputs):
        try:
            known = stored.get(found.run_id)
            if known is None:
                alone.append(_of_folder(found, warn))
            else:
                _join(known, found, warn)
        except (SnnrunError, OSError, ValueError) as error:
            warn(f"{found.path}: left out, since it is damaged: {error}")
    for run in stored.values():
        elsewhere = _folder_elsewhere(run)
        if elsewhere is not None:
            with contextlib.suppress(SnnrunError, OSError, ValueError):
                _join(run, elsewhere, warn)
    for file in records.files(outputs):
        try:
            alone.append(Run(status="finished", **vars(records.read(file))))
        except SnnrunError as error:
            warn(f"{error} It is left out.")
    return [*stored.values(), *alone]


def _folder_elsewhere(run: Run) -> RunFolder | None:
    """The folder that a run of the store names, if it is on this machine and says so too."""
    there = RunFolder(Path(run.tags.get(tracking.RUN_DIR_TAG, "")))
    if run.folder is not None or not (there.path / names.CONFIG).is_file() or there.run_id != run.run_id:
        return None
    return there


def _join(run: Run, found: RunFolder, warn: Warn) -> None:
    """Complete what the store knows, which may have failed in the middle of the run, or have been left out of it."""
    run.folder = found.path.resolve()
    run.started = min(run.started, found.started)  # the store's is later if the run came into it later
    if not run.params:
        run.params = tracking.flatten(found.values())
    if "data.origin" not in run.tags:
        run.tags = journal.read_tags(found.path) | run.tags
    _, metrics = journal.figures(found.path, warn)
    further = _reached(metrics) > _reached(run.metrics)
    if further:
        run.metrics = metrics
    if further or RESUMED_TAG in run.tags:
        _go_by(run, tracking.flatten(found.values()))
    at_work = run_lock.at_work(found.path)
    if further or run.status == "running" or at_work:
        run.status = _status(found.path, run, at_work)


def _reached(metrics: Mapping[str, float]) -> tuple[float, bool]:
    """How far a run has come: epochs, and whether it has its final figures."""
    return metrics.get("epoch", 0.0), journal.closed(metrics)


def _go_by(run: Run, params: Mapping[str, str]) -> None:
    """Let the parameters that a run went on with count, and keep which of them were others before."""
    for key, value in params.items():
        before, _ = run.changed.get(key, (run.params.get(key, value), value))
        run.changed[key] = before, value
        run.params[key] = value
    run.changed = {key: (before, now) for key, (before, now) in run.changed.items() if before != now}


def _of_folder(found: RunFolder, warn: Warn) -> Run:
    path = found.path.resolve()
    name, params = RunFolder(path).name, tracking.flatten(found.values())
    run = Run(name, "unfinished", found.started, found.run_id, folder=path, params=params)
    _, run.metrics = journal.figures(path, warn)
    run.tags = journal.read_tags(path)
    run.status = _status(path, run, run_lock.at_work(path))
    return run


def status_of(found: RunFolder) -> str:
    """How a run stands that nobody works on but the caller, as its folder alone tells it, one of `STATUSES`."""
    return _status(found.path, _of_folder(found, lambda _: None), at_work=False)


def _status(folder: Path, run: Run, at_work: bool | None) -> str:
    """What a folder tells without its store; `at_work` is what its lock tells."""
    if at_work:
        return "running"
    if (folder / names.ERROR).exists():
        return "failed"
    if not journal.closed(run.metrics):
        return "unfinished" if at_work is None else "killed"
    wanted = float(run.params.get("train.epochs", "nan"))
    ended = ends.trained_long(run, wanted, ends.patience_of(run), lambda: journal.figures(folder)[0])
    return "finished" if ended else "interrupted"


# ---- the store ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _reading(uri: str) -> Iterator[Any]:
    """An MlflowClient on a store that exists; whatever MLflow raises becomes one message."""
    try:
        _probe(uri)
        with tracking.quiet():
            yield tracking.connect(uri)
    except SnnrunError:
        raise
    except Exception as error:  # MLflow raises its own errors, SQLAlchemy's, requests' and the operating system's
        raise SnnrunError(
            f"the MLflow store {uri} cannot be read ({tracking.reason(error)}): is the address right, and does the "
            "server answer?"
        ) from None


def _probe(uri: str) -> None:
    """Raise at once for a sqlite file that is not there, which MLflow would create, or that is no database."""
    path = tracking.file_of(uri)
    if path is None:
        return
    if not path.exists():
        raise SnnrunError(f"the MLflow store {uri} cannot be read: there is no file {path}.")
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        connection.execute("SELECT 1 FROM runs LIMIT 1")


def _stored(uri: str) -> list[Run]:
    """All runs of snnrun in a store; parents of sweeps and what others record there are passed over."""
    found: list[Any] = []
    with _reading(uri) as client, _without_collector():
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        token = None
        while experiments:
            page = client.search_runs(
                experiments, f"tags.`{tracking.RUN_DIR_TAG}` LIKE '%'", max_results=PAGE, page_token=token
            )
            found += page
            token = page.token
            if not token:
                break
    return [_of_store(run, uri) for run in found if "snnrun.sweep" not in run.data.tags]


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Python's collector walks through hundreds of thousands of living rows again and again: two thirds of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _of_store(run: Any, uri: str) -> Run:
    metrics: Mapping[str, float] = run.data.metrics
    found = Run(
        name=run.info.run_name or run.info.run_id,
        status=STATUS.get(run.info.status, "running"),
        started=run.info.start_time / 1000,
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        ended=run.info.end_time / 1000 if run.info.end_time else None,
        params=dict(run.data.params),
        metrics={key: value for key, value in metrics.items() if math.isfinite(value)},
        tags=dict(run.data.tags),
        uri=uri,
    )
    _go_by(found, tracking.changed(found.tags))
    return found


def keys_of(runs: Iterable[Run]) -> list[str]:
    """Every parameter that any of the runs has."""
    return sorted(set().union(*(run.params for run in runs)))
