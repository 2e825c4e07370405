"""The MLflow store: opened, tried, and its runs made and found again.

MLflow is imported inside functions, since that takes more than a second. Unless the user's environment says otherwise,
variables are set before the import. They switch its telemetry off (``MLFLOW_DISABLE_TELEMETRY=true``,
``DO_NOT_TRACK=true``) and cut its patience with a dead server from minutes to seconds (``MLFLOW_HTTP_REQUEST_*``).
MLflow is also told to print nothing: it prints a run's address before it records the run's end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snnrun import locks
from snnrun.errors import SnnrunError
from snnrun.record.run_folder import RunFolder
from snnrun.tracking.address import file_of, is_server, store_uri
from snnrun.tracking.mlflow_run import reason

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
    if is_server(address):
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
        remote = is_server(address) or address.startswith("databricks")
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
    set_environment()
    from mlflow import MlflowClient

    # After the import, which sets levels of its own. What matters among MLflow's messages reaches us as an exception.
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=address)


def set_environment() -> None:
    """Set what `ENVIRONMENT` says where the user's environment says nothing; before MLflow is imported."""
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
