"""The record of one run: its journal, which this process writes, and its MLflow run, which another one may write."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from snnrun import beside
from snnrun.record.journal import Journal, Warn
from snnrun.tracking.mlflow_run import Mlflow, Status, data_tags


class Recorded:
    """A `tracking.Tracker`. Without a store (`tracking=none`) the run's folder has everything."""

    run_id: str | None = None
    run_name: str | None = None

    def __init__(self, journal: Journal, store: Mlflow | Elsewhere | None) -> None:
        self._journal, self._store = journal, store
        if store is not None:
            self.run_id, self.run_name = store.run_id, store.run_name

    def params(self, values: Mapping[str, object]) -> None:
        """See `tracking.Tracker`."""
        if self._store is not None:
            self._store.params(values)

    def tags(self, values: Mapping[str, str]) -> None:
        """See `tracking.Tracker`."""
        self._journal.tags(values)
        if self._store is not None:
            self._store.tags(values)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """See `tracking.Tracker`."""
        self._journal.append(values, step)
        if self._store is not None:
            self._store.metrics(values, step, int(time.time() * 1000))

    def catch_up(self) -> None:
        """See `tracking.Tracker`."""
        if self._store is not None:
            self._store.catch_up()

    def dataset(self, name: str, digest: str, sizes: Mapping[str, int]) -> None:
        """See `tracking.Tracker`."""
        if self._store is not None:
            self._store.dataset(name, digest, sizes)
        self.tags(data_tags(digest, sizes))

    def artifact(self, path: Path, folder: str = "") -> None:
        """See `tracking.Tracker`."""
        if self._store is not None:
            self._store.artifact(path, folder)

    def finish(self, status: Status, ended: float | None = None) -> None:
        """See `tracking.Tracker`."""
        if self._store is not None:
            self._store.finish(status, ended)


class Elsewhere:
    """An `Mlflow` in the process beside this one. Its methods return at once; only `finish` waits for all of them."""

    def __init__(self, run_id: str, run_name: str | None, folder: Path, warn: Warn) -> None:
        self.run_id: str | None = run_id
        self.run_name = run_name
        self._key, self._folder, self._warn = run_id, folder, warn
        self._asked: list[Future[list[str]]] = []
        self._lost = self._finished = False

    def params(self, values: Mapping[str, object]) -> None:
        """See `tracking.Tracker`."""
        self._post("params", values)

    def tags(self, values: Mapping[str, str]) -> None:
        """See `tracking.Tracker`."""
        self._post("tags", dict(values))

    def metrics(self, values: Mapping[str, float], step: int, milliseconds: int) -> None:
        """See `tracking.Tracker`."""
        self._post("metrics", {key: float(value) for key, value in values.items()}, step, milliseconds)

    def catch_up(self) -> None:
        """See `tracking.Tracker`."""
        self._post("catch_up")

    def dataset(self, name: str, digest: str, sizes: Mapping[str, int]) -> None:
        """See `tracking.Tracker`."""
        self._post("dataset", name, digest, dict(sizes))

    def artifact(self, path: Path, folder: str = "") -> None:
        """See `tracking.Tracker`."""
        self._post("artifact", path.absolute(), folder)

    def finish(self, status: Status, ended: float | None = None) -> None:
        """See `tracking.Tracker`."""
        if not self._finished:
            self._finished = True
            self._post("finish", status, ended)
            self._hear(wait=True)

    def _post(self, method: str, *arguments: object) -> None:
        self._asked.append(beside.post(_call, self._key, method, arguments))
        self._hear()

    def _hear(self, *, wait: bool = False) -> None:
        """Pass on the warnings of what is done by now, or of everything."""
        while self._asked and (wait or self._asked[0].done()):
            try:
                for warning in self._asked[0].result():
                    self._warn(warning)
            except beside.Gone:
                if not self._lost:
                    self._lost = True
                    self._warn(
                        "the process that writes to MLflow has ended; the run goes on, its folder keeps everything. "
                        f"MLflow gets it by: snnrun runs import {self._folder}"
                    )
            del self._asked[0]


# ---- in the process beside -------------------------------------------------------------------------------------------

_stores: dict[str, tuple[Mlflow, list[str]]] = {}


def open_elsewhere(open_store: Callable[..., Mlflow], options: Mapping[str, Any]) -> tuple[str, str | None, list[str]]:
    """Open a store and keep it for `_call`. Returns the run's id and name, and the warnings."""
    warnings: list[str] = []
    store = open_store(**options, warn=warnings.append)
    assert store.run_id is not None
    _stores[store.run_id] = store, warnings
    return store.run_id, store.run_name, _taken(warnings)


def _call(run_id: str, method: str, arguments: tuple[object, ...]) -> list[str]:
    """Call a method of an open store. Returns the new warnings."""
    store, warnings = _stores[run_id]
    getattr(store, method)(*arguments)
    if method == "finish":
        del _stores[run_id]
    return _taken(warnings)


def _taken(warnings: list[str]) -> list[str]:
    taken = list(warnings)
    warnings.clear()
    return taken
