"""Where a run is recorded: MLflow, and always ``metrics.jsonl`` and ``tags.json`` in the run's folder.

One training is one MLflow run. The store is ``<outputs>/mlflow.db`` (sqlite) with artifacts under
``<outputs>/mlartifacts``, or whatever ``tracking.uri`` names. A store that cannot be opened at the start ends the
command with one message. If it fails later there is one warning, and the training goes on, since everything is in the
run's folder too.

MLflow is imported in this room alone, inside functions, since that takes more than a second. Unless the user's
environment says otherwise, variables are set before the import. They switch its telemetry off
(``MLFLOW_DISABLE_TELEMETRY=true``, ``DO_NOT_TRACK=true``) and cut its patience with a dead server from minutes to
seconds (``MLFLOW_HTTP_REQUEST_*``). MLflow is also told to print nothing: it prints a run's address before it records
the run's end.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sqlite3
import sys
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from snnrun import beside, locks
from snnrun.errors import SnnrunError, UsageError
from snnrun.record.journal import Journal, began
from snnrun.record.provenance import provenance, version
from snnrun.record.run_folder import RunFolder
from snnrun.tracking.address import file_of, place_of, store_file, store_uri, usual_uri
from snnrun.tracking.mlflow_run import Mlflow, Status, changed, flatten, reason
from snnrun.tracking.recorded import Elsewhere, Recorded, open_elsewhere
from snnrun.tracking.server import serve

__all__ = [
    "Status",
    "Tracker",
    "changed",
    "file_of",
    "flatten",
    "get_ready",
    "open_tracker",
    "place_of",
    "provenance",
    "reach",
    "reason",
    "serve",
    "store_file",
    "store_uri",
    "usable",
    "usual_uri",
    "version",
]

Warn = Callable[[str], None]
Item = TypeVar("Item")

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# MLflow's pages begin with what language models need, unless an experiment says what it is.
KIND = {"mlflow.experimentKind": "custom_model_development"}
REACH_SECONDS = 3.0  # that a store may take to answer
RUN_DIR_TAG = "snnrun.run_dir"


class Tracker(Protocol):
    """What the engine and the commands ask of a record; ``run_id`` is None where there is no MLflow run."""

    run_id: str | None
    run_name: str | None

    def params(self, values: Mapping[str, object]) -> None:
        """Record the configuration, flattened (``model.tau_m``)."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Record facts about the run that are no parameters."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record one point of each metric; ``step`` is the epoch."""

    def catch_up(self) -> None:
        """Send what the journal of the run's folder has and MLflow lacks: of a run that goes on, or is imported."""

    def dataset(self, name: str, digest: str, sizes: Mapping[str, int]) -> None:
        """Record which data trained, by digest, and how many samples each split holds."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Keep a copy of a file of the run's folder, under ``folder``."""

    def finish(self, status: Status, ended: float | None = None) -> None:
        """Write out what is buffered and close the run; a second call does nothing.

        `ended` is in seconds since 1970; None is now.
        """


def to_stderr(message: str) -> None:
    """The default for ``warn``."""
    print(f"warning: {message}", file=sys.stderr)


def open_tracker(
    kind: Literal["mlflow", "none"],
    *,
    run_dir: Path,
    outputs: Path,
    uri: str | None = None,
    experiment: str = "snnrun",
    run_name: str | None = None,
    parent_run_id: str | None = None,
    system_metrics: bool = False,
    resumed: bool = False,
    anew: bool = False,
    warn: Warn = to_stderr,
) -> Tracker:
    """Start the record of one run; with MLflow its id is written to ``<run_dir>/mlflow_run_id`` too.

    ``uri`` None is the sqlite store under ``outputs``; ``run_name`` None lets MLflow invent one; ``parent_run_id`` is a
    sweep's; ``resumed`` goes on in the MLflow run of the folder; one that the store does not have is
    an error, or with ``anew`` begun anew.

    Raises:
        SnnrunError: the folder or the store cannot be used.
        UsageError: ``kind`` is unknown, or ``system_metrics`` is asked for without psutil.
    """
    if kind not in ("mlflow", "none"):
        raise UsageError(f"tracking.kind is {kind!r}: it must be mlflow or none")
    folder = run_dir.resolve()
    if kind == "none":
        return Recorded(Journal(folder, warn), None)
    if system_metrics and importlib.util.find_spec("psutil") is None:
        raise UsageError(
            "tracking.system_metrics=true needs the package psutil: pip install 'snnrun[system]', or leave it false"
        )
    tags = {RUN_DIR_TAG: str(folder)} | ({"mlflow.parentRunId": parent_run_id} if parent_run_id else {})
    options = {"folder": folder, "place": (outputs, uri, experiment), "run_name": run_name, "tags": tags}
    options |= {"system_metrics": system_metrics, "resumed": resumed, "anew": anew}
    store = _opened(options, warn)  # it may refuse, so before the first change to the folder
    return Recorded(Journal(folder, warn), store)


def _opened(options: dict[str, Any], warn: Warn) -> Mlflow | Elsewhere:
    """The MLflow run, in the process beside this one if there is one."""
    with contextlib.suppress(beside.Gone):
        if beside.runs():
            run_id, run_name, warnings = beside.post(open_elsewhere, _open, options).result()
            for warning in warnings:
                warn(warning)
            return Elsewhere(run_id, run_name, options["folder"], warn)
    return _open(**options, warn=warn)


def _open(
    folder: Path,
    place: tuple[Path, str | None, str],
    run_name: str | None,
    tags: dict[str, str],
    *,
    system_metrics: bool,
    resumed: bool,
    anew: bool,
    warn: Warn,
) -> Mlflow:
    """The MLflow run of `open_tracker`; `place` is outputs, uri, experiment."""
    # What may refuse a run that goes on comes before the first change to its folder.
    found: tuple[Any, Any] = reopen(*place, folder, anew=anew) if resumed else (None, None)
    client, run = found
    fresh = run is None
    Journal(folder, warn)
    outputs, uri = place[:2]
    if run is None:
        client, run = create_run(*place, run_name, tags, began(folder))
    else:
        with usable(uri or store_uri(outputs), outputs):
            client.update_run(run.info.run_id, status="RUNNING")
    RunFolder(folder).save_run_id(run.info.run_id)
    monitor = _system_monitor(run.info.run_id, uri or store_uri(outputs)) if system_metrics else None
    return Mlflow(client, run, folder, warn, fresh=fresh, monitor=monitor)


def foresee() -> None:
    """Start the process beside this one and have MLflow imported there, before it is known which store is wanted."""
    if beside.start():
        beside.post(_import)


def _import() -> None:
    _set_environment()
    with quiet():
        import mlflow  # noqa: F401


def get_ready(kind: str, outputs: Path, uri: str | None) -> None:
    """Start the process beside this one, and what takes long there: it imports MLflow and opens a store that exists."""
    if beside.start() and kind == "mlflow":
        beside.post(_get_ready, uri or store_uri(outputs))


def _get_ready(address: str) -> None:
    path = file_of(address)
    if path is None or path.exists():
        with quiet(), contextlib.suppress(Exception):  # `open_tracker` will say what is wrong
            connect(address)
    else:
        _import()


def reach(outputs: Path, uri: str | None = None) -> dict[str, Any]:
    """Whether runs could be recorded now, found out within seconds and without making anything: plain values.

    `message` says what is there, or what is wrong.
    """
    address = uri or store_uri(outputs)
    try:
        return {"uri": address, "reachable": True, "message": _look_at(address)}
    except (OSError, ValueError, sqlite3.Error) as error:
        return {"uri": address, "reachable": False, "message": reason(error)}


def _look_at(address: str) -> str:
    if address.startswith(("http://", "https://")):
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=REACH_SECONDS):
            return "the server answers"
    path = file_of(address)
    if path is None:
        return "not a kind that can be tried"
    if not path.exists():
        return "not there yet: the first run makes it"
    with contextlib.closing(sqlite3.connect(path, timeout=REACH_SECONDS)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        found = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'runs'").fetchone()[0]
        runs = connection.execute("SELECT count(*) FROM runs").fetchone()[0] if found else 0
        connection.rollback()
    return f"writable, {runs:,} run{'s' * (runs != 1)}"


def reopen(outputs: Path, uri: str | None, experiment: str, run_dir: Path, *, anew: bool = False) -> tuple[Any, Any]:
    """The MlflowClient and the run that a folder has in the store, unchanged; None twice if it has none.

    A process that was killed right after it made the run has not noted its id: then the run names the folder.

    Raises:
        SnnrunError: the store cannot be used; or, unless `anew`, it does not have the run that the folder had.
    """
    address = uri or store_uri(outputs)
    with usable(address, outputs), _alone(outputs):
        _probe_sqlite(address)
        client = connect(address)
        run_id = RunFolder(run_dir).run_id
        known = client.get_experiment_by_name(experiment)
        if not run_id and known is not None:
            mine = client.search_runs([known.experiment_id], f"tags.`{RUN_DIR_TAG}` = '{run_dir}'", max_results=1)
            run_id = mine[0].info.run_id if mine else None
        run = _existing(client, run_id) if run_id else None
        deleted = run is not None and run.info.lifecycle_stage == "deleted"
        if run is not None and not deleted:
            return client, run
        if run_id and not anew:
            raise SnnrunError(_why_not(run_id, address, run_dir, deleted=deleted))
        return None, None


def _why_not(run_id: str, address: str, run_dir: Path, *, deleted: bool) -> str:
    anew = f"bring the run into this one first: snnrun runs import {run_dir} --uri {address}"
    if deleted:
        return (
            f"{run_dir}: its MLflow run {run_id} was deleted in {address}. Restore it (mlflow runs restore --run-id "
            f"{run_id}, with MLFLOW_TRACKING_URI={address}), go on with tracking.kind=none, or {anew}"
        )
    return (
        f"{run_dir}: the MLflow store {address} does not have this run. Name the one that has it by "
        f"tracking.uri=..., or {anew}"
    )


def _existing(client: Any, run_id: str) -> Any:
    """The run, also a deleted one, or None if the store has none of this id."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def create_run(
    outputs: Path,
    uri: str | None,
    experiment: str,
    run_name: str | None,
    tags: dict[str, str],
    started: float | None = None,
) -> tuple[Any, Any]:
    """Open the store, make what is missing (file, experiment), start a run: the MlflowClient and the run.

    `started` is in seconds since 1970; None is now. Raises SnnrunError when the store cannot be used.
    """
    address = uri or store_uri(outputs)
    with usable(address, outputs), _alone(outputs):
        _probe_sqlite(address)
        client = connect(address)
        number = _experiment_id(client, address, experiment, outputs)
        moment = None if started is None else int(started * 1000)
        run = client.create_run(number, start_time=moment, tags=tags, run_name=run_name)
    return client, run


@contextlib.contextmanager
def usable(address: str, outputs: Path) -> Iterator[None]:
    """Turn what a store raises into a message."""
    try:
        with quiet():
            yield
    except SnnrunError:
        raise
    except Exception as error:  # as in Mlflow._flush
        raise SnnrunError(
            f"the MLflow store {address} cannot be used ({reason(error)}): check outputs={outputs}, choose another "
            "tracking.uri (such as sqlite:////tmp/mlflow.db or http://host:5000), or run with tracking=none"
        ) from None


def _experiment_id(client: Any, address: str, name: str, outputs: Path) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        # A server keeps artifacts where it was told to; left alone, a database puts them into the current directory.
        remote = address.startswith(("http://", "https://", "databricks"))
        location = None if remote else (outputs.resolve() / "mlartifacts").as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location, tags=KIND))
        except Exception:
            found = client.get_experiment_by_name(name)  # another process may have been faster
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise SnnrunError(
            f"the MLflow experiment {name!r} was deleted: choose another tracking.experiment, or restore it with "
            f"mlflow experiments restore --experiment-id {found.experiment_id} (MLFLOW_TRACKING_URI={address})"
        )
    return str(found.experiment_id)


def connect(address: str) -> Any:
    """An MlflowClient on a store, with the environment and the log levels set; raises whatever MLflow raises."""
    _set_environment()
    from mlflow import MlflowClient

    # After the import, which sets levels of its own. What matters among MLflow's messages reaches us as an exception.
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=address)


def _set_environment() -> None:
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let no deprecation inside MLflow through."""
    with warnings.catch_warnings():
        # SQLAlchemy 2.1 deprecates MLflow's table mapping: no business of our user's, fatal where warnings are errors.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@contextlib.contextmanager
def _alone(outputs: Path) -> Iterator[None]:
    """Hold a lock on the outputs folder: two runs that start together on a fresh store would both create tables."""
    outputs.mkdir(parents=True, exist_ok=True)
    with locks.of_folder(outputs):
        yield


def _probe_sqlite(address: str) -> None:
    """Raise at once where MLflow would try for two minutes: a folder, another file, no permission to write."""
    path = file_of(address)
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()


def _system_monitor(run_id: str, address: str) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, tracking_uri=address)
    monitor.start()
    return monitor
