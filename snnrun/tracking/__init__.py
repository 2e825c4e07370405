"""Where a run is recorded: MLflow, and always ``metrics.jsonl`` and ``tags.json`` in the run's folder.

One training is one MLflow run. The store is ``<outputs>/mlflow.db`` (sqlite) with artifacts under
``<outputs>/mlartifacts``, or whatever ``tracking.uri`` names. A store that cannot be opened at the start ends the
command with one message. If it fails later there is one warning, and the training goes on, since everything is in the
run's folder too.

MLflow is imported in this room alone, see `store`.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from snnrun import beside
from snnrun.errors import UsageError, warn
from snnrun.record.journal import Journal, Warn, began
from snnrun.record.provenance import provenance, version
from snnrun.record.run_folder import RunFolder
from snnrun.tracking.address import file_of, is_server, place_of, store_file, store_uri, usual_uri
from snnrun.tracking.mlflow_run import Mlflow, Status, changed, flatten, reason
from snnrun.tracking.recorded import Elsewhere, Recorded, open_elsewhere
from snnrun.tracking.server import serve
from snnrun.tracking.store import KIND, RUN_DIR_TAG, connect, create_run, quiet, reach, reopen, set_environment, usable

__all__ = [
    "KIND",
    "RUN_DIR_TAG",
    "Status",
    "Tracker",
    "changed",
    "connect",
    "file_of",
    "flatten",
    "foresee",
    "get_ready",
    "is_server",
    "open_tracker",
    "place_of",
    "provenance",
    "quiet",
    "reach",
    "reason",
    "serve",
    "store_file",
    "store_uri",
    "usual_uri",
    "version",
]


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
    warn: Warn = warn,
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
    set_environment()
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


def _system_monitor(run_id: str, address: str) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, tracking_uri=address)
    monitor.start()
    return monitor
