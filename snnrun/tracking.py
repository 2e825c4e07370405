"""Where a run is recorded: MLflow, and always ``metrics.jsonl`` in the run's folder.

One training is one MLflow run. The store is ``<outputs>/mlflow.db`` (sqlite) with artifacts under
``<outputs>/mlartifacts``, or whatever ``tracking.uri`` names. A store that cannot be opened at the start ends the
command with one message; one that fails later costs one warning and the training goes on, for everything is in the
run's folder too.

MLflow is imported here alone, inside functions, for it takes more than a second. Before that import its telemetry is
switched off (``MLFLOW_DISABLE_TELEMETRY=true``, ``DO_NOT_TRACK=true``) and its patience with a dead server is cut from
minutes to seconds (``MLFLOW_HTTP_REQUEST_*``), each unless the user's environment says otherwise.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import math
import os
import re
import sqlite3
import sys
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from snnrun.errors import SnnrunError, UsageError
from snnrun.provenance import provenance
from snnrun.ui import ui

__all__ = ["Tracker", "flatten", "open_tracker", "provenance", "reach", "store_uri", "ui"]

Status = Literal["FINISHED", "FAILED", "KILLED"]
Warn = Callable[[str], None]
Item = TypeVar("Item")

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
VALUE_LENGTH = 6000  # MLflow's limit for the value of a parameter; a tag may be longer
BATCH = 100  # MLflow's limit for parameters and for tags in one request; metrics may be 1000
REACH_SECONDS = 3.0  # that a store may take to answer
FLUSH_SECONDS = 5.0  # a request costs about 20 ms however many points it carries
FAILURES = 3  # in a row, after which MLflow is left alone until the run ends


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

    def dataset(self, name: str, digest: str, sizes: Mapping[str, int]) -> None:
        """Record which data trained, by digest, and how many samples each split holds."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Keep a copy of a file of the run's folder, under ``folder``."""

    def finish(self, status: Status) -> None:
        """Write out what is buffered and close the run; a second call does nothing."""


def to_stderr(message: str) -> None:
    """The default for ``warn``."""
    print(f"warning: {message}", file=sys.stderr)


def flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """``{"model": {"tau_m": 64.0}}`` -> ``{"model.tau_m": "64.0"}``, values written as on the command line.

    Null, true and false are spelt so, a list is ``[20.0, 5.0]``; characters that MLflow refuses in a key become ``_``,
    and a value is cut at 6000 characters.
    """
    flat: dict[str, str] = {}
    for name, value in values.items():
        key = prefix + re.sub(r"[^\w./: -]", "_", str(name))
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{key}.")
        else:
            flat[key] = _text(value)[:VALUE_LENGTH]
    return flat


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return str(value)


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


class _Journal:
    """``metrics.jsonl``: one JSON object a call, in strict JSON, so NaN and the infinities are null."""

    def __init__(self, run_dir: Path, warn: Warn) -> None:
        self.path = run_dir / "metrics.jsonl"
        self._warn: Warn | None = warn
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            self.path.touch()
        except OSError as error:
            raise SnnrunError(
                f"the run's folder {run_dir} cannot be written ({error}): choose another outputs="
            ) from None

    def append(self, values: Mapping[str, float], step: int) -> None:
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "time": round(time.time(), 3)} | finite) + "\n")
        except OSError as error:
            if self._warn is not None:
                self._warn(f"{self.path} cannot be written ({error}); training goes on without it")
                self._warn = None


class _Local:
    """``tracking=none``: ``metrics.jsonl`` and nothing else; the run's folder has the rest."""

    run_id: str | None = None
    run_name: str | None = None

    def __init__(self, journal: _Journal) -> None:
        self.metrics = journal.append

    def params(self, values: Mapping[str, object]) -> None: ...

    def tags(self, values: Mapping[str, str]) -> None: ...

    def dataset(self, name: str, digest: str, sizes: Mapping[str, int]) -> None: ...

    def artifact(self, path: Path, folder: str = "") -> None: ...

    def finish(self, status: Status) -> None: ...


class _Mlflow:
    """One MLflow run. No method raises when MLflow fails: the first failure is a warning, the rest is silence."""

    def __init__(self, client: Any, run: Any, journal: _Journal, warn: Warn, monitor: Any = None) -> None:
        self.run_id: str | None = run.info.run_id
        self.run_name: str | None = run.info.run_name
        self._client, self._journal, self._warn, self._monitor = client, journal, warn, monitor
        self._pending: list[Any] = []  # metrics that MLflow has not taken yet
        self._sent_at = -math.inf
        self._failures = 0
        self._warned = self._finished = False

    def params(self, values: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        for chunk in _chunks([Param(key, value) for key, value in flatten(values).items()], BATCH):
            self._try(self._client.log_batch, self.run_id, params=chunk)

    def tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        for chunk in _chunks([RunTag(key, str(value)[:VALUE_LENGTH]) for key, value in values.items()], BATCH):
            self._try(self._client.log_batch, self.run_id, tags=chunk)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        self._journal.append(values, step)
        now = int(time.time() * 1000)
        self._pending += [Metric(key, float(value), now, step) for key, value in values.items()]
        if time.monotonic() - self._sent_at >= FLUSH_SECONDS:
            self._flush()

    def dataset(self, name: str, digest: str, sizes: Mapping[str, int]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        # MLflow holds 36 characters of a digest; the tag has all of it.
        entity = Dataset(name, digest[:36], "code", json.dumps({"name": name}), profile=json.dumps(dict(sizes)))
        entry = DatasetInput(entity, [InputTag("mlflow.data.context", "training")])
        self._try(self._client.log_inputs, self.run_id, [entry])
        self.tags({"data.digest": digest} | {f"data.{split}_samples": str(size) for split, size in sizes.items()})

    def artifact(self, path: Path, folder: str = "") -> None:
        self._try(self._client.log_artifact, self.run_id, str(path), folder or None)

    def finish(self, status: Status) -> None:
        if self._finished:
            return
        self._finished = True
        self._failures = 0  # one more chance, even after many failures
        if self._monitor is not None:
            self._try(self._monitor.finish)
        self._flush()
        self._try(self._client.set_terminated, self.run_id, status)

    def _flush(self) -> None:
        self._sent_at = time.monotonic()
        while self._pending:
            chunk = self._pending[: 10 * BATCH]
            if not self._try(self._client.log_batch, self.run_id, metrics=chunk):
                return
            del self._pending[: len(chunk)]

    def _try(self, action: Callable[..., object], *args: object, **options: object) -> bool:
        if self._failures >= FAILURES:
            return False
        try:
            action(*args, **options)
        except Exception as error:  # MLflow raises its own errors, SQLAlchemy's, requests' and the operating system's
            self._failures += 1
            if not self._warned:
                self._warned = True
                self._warn(
                    f"MLflow cannot be written ({reason(error)}); the run goes on, and {self._journal.path.parent} "
                    "keeps its metrics and files"
                )
            return False
        self._failures = 0
        return True


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
    warn: Warn = to_stderr,
) -> Tracker:
    """Start the record of one run; with MLflow its id is written to ``<run_dir>/mlflow_run_id`` too.

    ``uri`` None is the sqlite store under ``outputs``; ``run_name`` None lets MLflow invent one; ``parent_run_id`` is a
    sweep's. Raises SnnrunError when the folder or the store cannot be used, UsageError for an unknown ``kind`` and for
    ``system_metrics`` without psutil.
    """
    if kind not in ("mlflow", "none"):
        raise UsageError(f"tracking.kind is {kind!r}: it must be mlflow or none")
    journal_at = run_dir.resolve()
    if kind == "none":
        return _Local(_Journal(journal_at, warn))
    if system_metrics and importlib.util.find_spec("psutil") is None:
        raise UsageError(
            "tracking.system_metrics=true needs the package psutil: pip install 'snnrun[system]', or leave it false"
        )
    journal = _Journal(journal_at, warn)
    tags = {"snnrun.run_dir": str(journal_at)} | ({"mlflow.parentRunId": parent_run_id} if parent_run_id else {})
    client, run = create_run(outputs, uri, experiment, run_name, tags)
    (journal_at / "mlflow_run_id").write_text(f"{run.info.run_id}\n", encoding="utf-8")
    monitor = _system_monitor(run.info.run_id, uri or store_uri(outputs)) if system_metrics else None
    return _Mlflow(client, run, journal, warn, monitor)


def store_uri(outputs: Path) -> str:
    """The address of the sqlite store under ``outputs``."""
    return f"sqlite:///{outputs.resolve() / 'mlflow.db'}"


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
    if not address.startswith("sqlite:///"):
        return "not a kind that can be tried"
    path = Path(address.removeprefix("sqlite:///").partition("?")[0])
    if not path.exists():
        return "not there yet: the first run makes it"
    with contextlib.closing(sqlite3.connect(path, timeout=REACH_SECONDS)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        found = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'runs'").fetchone()[0]
        runs = connection.execute("SELECT count(*) FROM runs").fetchone()[0] if found else 0
        connection.rollback()
    return f"writable, {runs:,} runs"


def create_run(
    outputs: Path, uri: str | None, experiment: str, run_name: str | None, tags: dict[str, str]
) -> tuple[Any, Any]:
    """Open the store, make what is missing (file, experiment), start a run: the MlflowClient and the run.

    Raises SnnrunError when the store cannot be used.
    """
    address = uri or store_uri(outputs)
    try:
        with quiet(), _alone(outputs):
            _probe_sqlite(address)
            client = connect(address)
            run = client.create_run(_experiment_id(client, address, experiment, outputs), tags=tags, run_name=run_name)
    except SnnrunError:
        raise
    except Exception as error:  # as in _Mlflow._try
        raise SnnrunError(
            f"the MLflow store {address} cannot be used ({reason(error)}): check outputs={outputs}, choose another "
            "tracking.uri (such as sqlite:////tmp/mlflow.db or http://host:5000), or run with tracking=none"
        ) from None
    return client, run


def _experiment_id(client: Any, address: str, name: str, outputs: Path) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        # A server keeps artifacts where it was told to; left alone, a database puts them into the current directory.
        remote = address.startswith(("http://", "https://", "databricks"))
        location = None if remote else (outputs.resolve() / "mlartifacts").as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
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
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient

    # After the import, which sets levels of its own. What matters among MLflow's messages reaches us as an exception.
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=address)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let no deprecation inside MLflow through."""
    with warnings.catch_warnings():
        # SQLAlchemy 2.1 deprecates MLflow's table mapping: no business of our user's, fatal where warnings are errors.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@contextlib.contextmanager
def _alone(outputs: Path) -> Iterator[None]:
    """Hold a lock on the outputs folder, for two runs that start together on a fresh store would both create tables."""
    import fcntl

    outputs.mkdir(parents=True, exist_ok=True)
    handle = os.open(outputs, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network mounts cannot lock a folder
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _probe_sqlite(address: str) -> None:
    """Raise at once where MLflow would try for two minutes: a folder, another file, no permission to write."""
    if not address.startswith("sqlite:///"):
        return
    path = Path(address.removeprefix("sqlite:///").partition("?")[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()


def _system_monitor(run_id: str, address: str) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, tracking_uri=address)
    monitor.start()
    return monitor


def reason(error: Exception) -> str:
    """The first line of an error, short enough for a message."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 160 else f"{lines[0][:157]}..."
