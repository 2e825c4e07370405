"""One point of a sweep, in the process where a launcher runs it: train, and record the result."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from snnrun import beside, tracking
from snnrun.config import failures
from snnrun.display import output
from snnrun.errors import SnnrunError, warn
from snnrun.metric_names import TRAIN_ACCURACY, VALIDATION_ACCURACY
from snnrun.record import names
from snnrun.record.run_folder import RunFolder
from snnrun.run.experiment import objective
from snnrun.sweep import points
from snnrun.sweep.points import Point
from snnrun.tracking import sweep_run
from snnrun.train import engine

OnEpoch = Callable[[Mapping[str, float]], None]


class Train(Protocol):
    """Trains the point, or goes on with it if `resumed`. `workers` points share the machine."""

    def __call__(self, *, on_epoch: OnEpoch, tags: Mapping[str, str], workers: int, resumed: bool) -> engine.Result:
        """Train. Returns the results, even after an interrupt or a divergence."""


def settle(result: engine.Result) -> None:
    """Raise the error of a training that ended early: KeyboardInterrupt, or SnnrunError if it diverged."""
    if result.status == "interrupted":
        raise KeyboardInterrupt
    if result.status == "diverged":
        raise SnnrunError(result.message)


def settle_point(folder: Path, result: engine.Result) -> None:
    """If a finished run is a point of a sweep, record its results there, so that the point does not run again."""
    point = points.read_point(folder)
    if point is None or not result.history:
        return
    measure = VALIDATION_ACCURACY if VALIDATION_ACCURACY in result.history[-1] else TRAIN_ACCURACY
    point.status, point.error, point.summary = "FINISHED", "", result.summary
    point.history = [metrics[measure] for metrics in result.history]
    point.objective = objective(result)
    point.save(folder.parent)


def run(
    point: Point, sweep: Path, settings: Mapping[str, Any], train: Train, params: Callable[[], dict[str, str]]
) -> float | None:
    """Run a point. Returns its objective, or None if it does not begin.

    A point does not begin if another one failed and `sweep.fail_fast` is set, or if its sweep has ended.

    If another process has worked in its folder before, the point goes on there from its checkpoint. This happens when a
    scheduler requeues a job, or when a resumed sweep takes up points that were killed. A finished point does not run
    again.

    Args:
        point: the point as the sweeper wrote it.
        sweep: the folder of the sweep.
        settings: the sections `search`, `sweep`, `tracking` of the config, and its `outputs`.
        train: trains the point.
        params: gives the flat config of the point, for the record if it fails before it has one.

    Raises:
        PointFailed: the point failed. Its message is printed, its traceback is in its folder and in its MLflow run.
    """
    if point.status in points.DONE:
        return point.objective
    failed = (other.status == "FAILED" for other in points.latest(points.attempts(sweep)))
    if point.orphaned or (settings["sweep"]["fail_fast"] and any(failed)):
        return None
    folder, started, before, resumed = point.folder(sweep), time.monotonic(), point.seconds, point.begun
    watch = _Watch(point, sweep, settings["search"])
    with points.hold(folder):
        point.status, point.pid, point.begun = "RUNNING", os.getpid(), True
        point.save(sweep)
        try:
            with _apart(folder, point.workers):
                tags = {sweep_run.POINT_TAG: point.id} | ({sweep_run.LABEL_TAG: point.label} if point.label else {})
                result = train(on_epoch=watch, tags=tags, workers=point.workers, resumed=resumed)
            if not watch.pruned:
                settle(result)
            point.status = "PRUNED" if watch.pruned else "FINISHED"
            point.summary = result.summary
            point.objective = objective(result)
        except KeyboardInterrupt:
            point.status = "KILLED"
            raise
        except Exception as error:
            point.status = "FAILED"
            _fail(point, folder, settings, error, params)
            raise failures.PointFailed(point.error) from None
        finally:
            point.seconds = before + time.monotonic() - started
            point.run_id = RunFolder(folder).run_id
            point.save(sweep)
        if watch.pruned and point.run_id:
            text = f"after epoch {len(point.history)} of {point.epochs}"
            _mark(point, settings, {sweep_run.PRUNED_TAG: text})
    _say(point)
    return point.objective


# What this process has said of points that failed, by sweep: the number of the first that failed so.
_said: dict[tuple[Path, str], int] = {}


class _Watch:
    """Writes the accuracy of each epoch to the point's record, and ends the training of a point that lags."""

    def __init__(self, point: Point, sweep: Path, search: Mapping[str, Any]) -> None:
        self.point, self.sweep, self.search = point, sweep, search
        self.pruned = False

    def __call__(self, metrics: Mapping[str, float]) -> None:
        """Record an epoch that is done."""
        del self.point.history[int(metrics["epoch"]) - 1 :]  # an epoch after the checkpoint comes again
        self.point.history.append(metrics.get(VALIDATION_ACCURACY, metrics[TRAIN_ACCURACY]))
        self.point.save(self.sweep)
        if self.search["prune"] and points.lags(
            self.point, points.latest(points.attempts(self.sweep)), self.search["prune_after"]
        ):
            self.pruned = True
            raise engine.Stop("pruned: it is behind the median of the other points")


def _fail(
    point: Point,
    folder: Path,
    settings: Mapping[str, Any],
    error: Exception,
    params: Callable[[], dict[str, str]],
) -> None:
    text, _ = failures.message(error, point.overrides)
    point.error = text.splitlines()[0]
    first = _said.setdefault((folder.parent, text), point.number)
    if first == point.number:
        failures.report(error, point.overrides, f"{point.name}: ")
    else:
        failures.say(f"{point.name}: failed as point {first} did.")
    file = failures.keep(error, point.overrides, folder)
    store = settings["tracking"]
    parent = getattr(points.read_sweep(folder.parent), "parent_run_id", None)
    if store["kind"] != "mlflow" or parent is None:
        return
    if RunFolder(folder).run_id is None:
        with contextlib.suppress(SnnrunError):  # the store may be the cause of the failure
            tags = {sweep_run.POINT_TAG: point.id, "mlflow.parentRunId": parent, tracking.RUN_DIR_TAG: str(folder)}
            run_id = beside.ask(
                sweep_run.new_failure,
                tags,
                **_where(settings),
                experiment=store["experiment"],
                run_name=f"{point.number}",
                params=params(),
            )
            RunFolder(folder).save_run_id(run_id)
    point.run_id = RunFolder(folder).run_id
    _mark(point, settings, {sweep_run.ERROR_TAG: point.error}, file=file, status="FAILED")


def _mark(point: Point, settings: Mapping[str, Any], tags: Mapping[str, str], **rest: Any) -> None:
    if point.run_id is not None:
        asked = beside.ask(sweep_run.warned, sweep_run.mark_point, point.run_id, tags, **_where(settings), **rest)
        for warning in asked:
            warn(warning)


def _where(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"outputs": Path(settings["outputs"]), "uri": settings["tracking"]["uri"]}


def _say(point: Point) -> None:
    if point.workers > 1 or point.status == "PRUNED":
        accuracy = "" if point.objective is None else f", {100 * point.objective:.2f} %"
        print(f"{point.name}: {point.status.lower()}{accuracy}, {point.seconds:.0f} s", flush=True)


@contextlib.contextmanager
def _apart(folder: Path, workers: int) -> Iterator[None]:
    """If several points run at once, each writes its output to a file."""
    if workers == 1:
        yield
        return
    with (
        (folder / names.OUTPUT).open("a", encoding="utf-8", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
        output.unfailing(),
    ):
        yield
