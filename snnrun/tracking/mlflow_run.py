"""One run in MLflow, and what a store takes: flat parameters, tags, points, files, each in requests of its size."""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from snnrun.errors import first_line
from snnrun.record import journal
from snnrun.record.journal import Warn

Item = TypeVar("Item")
Status = Literal["FINISHED", "FAILED", "KILLED"]

VALUE_LENGTH = 6000  # MLflow's limit for the value of a parameter; a tag may be longer
CHANGED_TAG = "snnrun.changed."  # with the parameter after it
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST")
BATCH = 100  # MLflow's limit for parameters and for tags in one request; metrics may be 1000
FLUSH_SECONDS = 5.0  # a request costs about 20 ms however many points it carries
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0  # seconds for which MLflow is left alone after a failure
LAST_CHANCES = 3  # when a run ends, each of which sends what comes before the first failure


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


def changed(tags: Mapping[str, str]) -> dict[str, str]:
    """The parameters that a run went on with in place of those that MLflow has, which take no other value."""
    return {key.removeprefix(CHANGED_TAG): value for key, value in tags.items() if key.startswith(CHANGED_TAG)}


def data_tags(digest: str, sizes: Mapping[str, int]) -> dict[str, str]:
    """What the tags say of a corpus."""
    return {"data.digest": digest} | {f"data.{split}_samples": str(size) for split, size in sizes.items()}


def reason(error: Exception) -> str:
    """The first line of an error, short enough for a message."""
    said = first_line(error)
    return said if len(said) <= 160 else f"{said[:157]}..."


def is_refused(error: Exception) -> bool:
    """Whether MLflow will not take this later either: a file that is gone, a value that it does not allow."""
    return isinstance(error, FileNotFoundError) or getattr(error, "error_code", None) in REFUSALS


class Mlflow:
    """One MLflow run of the run in `folder`. No method raises when MLflow fails.

    What it does not take waits in order, and is tried again after a pause that doubles; the first failure is a warning.
    `fresh` is whether this process has just made the run, so that nothing is in it yet.
    """

    def __init__(self, client: Any, run: Any, folder: Path, warn: Warn, *, fresh: bool, monitor: Any = None) -> None:
        self.run_id: str | None = run.info.run_id
        self.run_name: str | None = run.info.run_name
        self._client, self._folder, self._warn, self._monitor = client, folder, warn, monitor
        self._waiting: list[Callable[[], object]] = []
        self._points: list[Any] = []
        self._params: dict[str, str] = {} if fresh else dict(run.data.params)
        self._changed = {} if fresh else changed(run.data.tags)
        self._known: set[tuple[str, int]] = set()  # points that MLflow has from before
        self._metric_keys = [] if fresh else list(run.data.metrics)
        self._fresh, self._sent_at, self._pause, self._failed_at = fresh, -math.inf, 0.0, -math.inf
        self._warned = self._finished = False

    def params(self, values: Mapping[str, object]) -> None:
        """See `tracking.Tracker`."""
        from mlflow.entities import Param

        flat = flatten(values)
        missing = [Param(key, value) for key, value in flat.items() if key not in self._params]
        for chunk in _chunks(missing, BATCH):
            self._do(self._client.log_batch, self.run_id, params=chunk)
        before = self._params | self._changed
        self.tags({CHANGED_TAG + key: value for key, value in flat.items() if value != before.get(key, value)})

    def tags(self, values: Mapping[str, str]) -> None:
        """See `tracking.Tracker`."""
        from mlflow.entities import RunTag

        for chunk in _chunks([RunTag(key, str(value)[:VALUE_LENGTH]) for key, value in values.items()], BATCH):
            self._do(self._client.log_batch, self.run_id, tags=chunk)

    def metrics(self, values: Mapping[str, float], step: int, milliseconds: int) -> None:
        """See `tracking.Tracker`. The time is since 1970."""
        from mlflow.entities import Metric

        self._points += [Metric(key, float(value), milliseconds, step) for key, value in values.items()]
        if time.monotonic() - self._sent_at >= FLUSH_SECONDS:
            self._flush()

    def catch_up(self) -> None:
        """See `tracking.Tracker`."""
        from mlflow.entities import Metric

        entries = journal.read(self._folder)
        self._points += [Metric(*point[:2], point[3], point[2]) for point in journal.points(entries)]
        self._flush()

    def dataset(self, name: str, digest: str, sizes: Mapping[str, int]) -> None:
        """See `tracking.Tracker`."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        # MLflow holds 36 characters of a digest; the tag has all of it.
        entity = Dataset(name, digest[:36], "code", json.dumps({"name": name}), profile=json.dumps(dict(sizes)))
        entry = DatasetInput(entity, [InputTag("mlflow.data.context", "training")])
        self._do(self._client.log_inputs, self.run_id, [entry])

    def artifact(self, path: Path, folder: str = "") -> None:
        """See `tracking.Tracker`."""
        self._do(self._client.log_artifact, self.run_id, str(path), folder or None)

    def finish(self, status: Status, ended: float | None = None) -> None:
        """See `tracking.Tracker`."""
        if self._finished:
            return
        self._finished = True
        if self._monitor is not None:
            with contextlib.suppress(Exception):
                self._monitor.finish()
        moment = None if ended is None else int(ended * 1000)
        self._waiting.insert(0, partial(self._client.set_terminated, self.run_id, status, moment))
        for _ in range(LAST_CHANCES):
            self._pause = 0.0
            self._flush()
        if self._waiting or self._points:
            self._warn(f"MLflow lacks a part of this run. Once it works again: snnrun runs import {self._folder}")

    def _do(self, action: Callable[..., object], *args: object, **options: object) -> None:
        """Now if MLflow works, else in its turn."""
        self._waiting.append(partial(action, *args, **options))
        self._flush(points=False)

    def _flush(self, *, points: bool = True) -> None:
        """Send what waits, unless MLflow failed a moment ago."""
        if time.monotonic() - self._failed_at < self._pause:
            return
        try:
            if points:
                self._send_points()
            while self._waiting:
                try:
                    self._waiting[0]()
                except Exception as error:
                    if not is_refused(error):
                        raise
                    self._warn(f"MLflow does not take a part of this run ({reason(error)}): it goes without")
                del self._waiting[0]
        except Exception as error:  # MLflow raises its own errors, SQLAlchemy's, requests' and the operating system's
            self._failed_at = time.monotonic()
            # An artifact store may be out of reach for good where the points are not: what fails goes to the end.
            self._waiting = [*self._waiting[1:], *self._waiting[:1]]
            self._pause = min(max(2.0 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
            if not self._warned:
                self._warned = True
                self._warn(
                    f"MLflow cannot be written ({reason(error)}); the run goes on, {self._folder} keeps "
                    "its metrics and files, and MLflow is tried again"
                )
        else:
            self._pause = 0.0

    def _send_points(self) -> None:
        self._sent_at = time.monotonic()
        if not self._points:
            return
        if not self._fresh:
            for key in self._metric_keys:
                self._known |= {(key, point.step) for point in self._client.get_metric_history(self.run_id, key)}
            self._fresh = True
        while self._points:
            chunk = self._points[: 10 * BATCH]
            new = {(point.key, point.step): point for point in chunk if (point.key, point.step) not in self._known}
            if new:
                self._client.log_batch(self.run_id, metrics=list(new.values()))
            self._known |= new.keys()
            del self._points[: len(chunk)]
