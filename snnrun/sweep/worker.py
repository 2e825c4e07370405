"""One point of a sweep, in whatever process a launcher runs it: train, and leave word of what came of it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from snnrun import tracking
from snnrun.config import failures
from snnrun.display import output
from snnrun.errors import SnnrunError
from snnrun.record import names
from snnrun.record.run_folder import RunFolder
from snnrun.run.experiment import objective
from snnrun.sweep import points
from snnrun.sweep.points import Point
from snnrun.tracking import sweep_run
from snnrun.train import engine

OnEpoch = Callable[[Mapping[str, float]], None]


class Result(Protocol):
    """What a training leaves, see `engine.Result`."""

    status: Any
    message: str

    @property
    def summary(self) -> dict[str, float]:
        """Its final figures."""


class Train(Protocol):
    """Trains the point, or goes on with it if `resumed`; `workers` points share the machine."""

    def __call__(self, *, on_epoch: OnEpoch, tags: Mapping[str, str], workers: int, resumed: bool) -> Result:
        """Returns what it reached, also after an interrupt or a divergence."""


class Pruned(KeyboardInterrupt):
    """Ends a training as Ctrl-C does: with all that it has."""


def settle(result: Result) -> None:
    """Raise what ended a training before its time."""
    if result.status == "interrupted":
        raise KeyboardInterrupt
    if result.status == "diverged":
        raise SnnrunError(result.message)


def settle_point(folder: Path, result: engine.Result) -> None:
    """Tell the sweep that a run is a point of that it need not be run again."""
    point = points.read_point(folder)
    if point is None or not result.history:
        return
    measure = "validation/accuracy" if "validation/accuracy" in result.history[-1] else "train/accuracy"
    point.status, point.error, point.summary = "FINISHED", "", result.summary
    point.history = [metrics[measure] for metrics in result.history]
    point.objective = objective(result)
    point.save(folder.parent)


def run(
    point: Point, sweep: Path, settings: Mapping[str, Any], train: Train, params: Callable[[], dict[str, str]]
) -> float | None:
    """Run a point; returns its objective, or None if it is not to begin.

    It is not once another failed and `sweep.fail_fast` is set, nor when the sweep that it was made for is gone.

    One whose folder another process has worked in before goes on there from its checkpoint: a scheduler that requeues
    a job runs the same point again, and a sweep that is resumed takes up those that were killed. What is done already
    is not done again.

    Args:
        point: as the sweeper wrote it.
        sweep: the sweep's folder.
        settings: the config's sections `search`, `sweep`, `tracking` and its `outputs`.
        train: trains it.
        params: its flat config, for the record of a point that failed before it had one.

    Raises:
        PointFailed: its message is printed, its traceback is in its folder and in its MLflow run.
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
                tags = {sweep_run.POINT_TAG: point.id}
                result = train(on_epoch=watch, tags=tags, workers=point.workers, resumed=resumed)
            if not watch.pruned:
                settle(result)
            point.status = "PRUNED" if watch.pruned else "FINISHED"
            point.summary = result.summary
            judged = (
                "validation/accuracy_best" in result.summary
            )  # by validation samples, of which the best epoch counts
            point.objective = max(point.history) if judged else point.history[-1] if point.history else None
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


class _Watch:
    """Writes the accuracy after each epoch to the point's record, and ends a training that lags."""

    def __init__(self, point: Point, sweep: Path, search: Mapping[str, Any]) -> None:
        self.point, self.sweep, self.search = point, sweep, search
        self.pruned = False

    def __call__(self, metrics: Mapping[str, float]) -> None:
        """An epoch is done."""
        del self.point.history[int(metrics["epoch"]) - 1 :]  # an epoch after the checkpoint comes again
        self.point.history.append(metrics.get("validation/accuracy", metrics["train/accuracy"]))
        self.point.save(self.sweep)
        if self.search["prune"] and points.lags(
            self.point, points.latest(points.attempts(self.sweep)), self.search["prune_after"]
        ):
            self.pruned = True
            raise Pruned


def _fail(
    point: Point,
    folder: Path,
    settings: Mapping[str, Any],
    error: Exception,
    params: Callable[[], dict[str, str]],
) -> None:
    failures.report(error, point.overrides, f"{point.name}: ")
    text, _ = failures.message(error, point.overrides)
    point.error = text.splitlines()[0]
    file = failures.keep(error, point.overrides, folder)
    store = settings["tracking"]
    parent = getattr(points.read_sweep(folder.parent), "parent_run_id", None)
    if store["kind"] != "mlflow" or parent is None:
        return
    if RunFolder(folder).run_id is None:
        with contextlib.suppress(SnnrunError):  # the store may be what it failed of
            tags = {sweep_run.POINT_TAG: point.id, "mlflow.parentRunId": parent, tracking.RUN_DIR_TAG: str(folder)}
            run_id = sweep_run.new_failure(
                tags, **_where(settings), experiment=store["experiment"], run_name=f"{point.number}", params=params()
            )
            RunFolder(folder).save_run_id(run_id)
    point.run_id = RunFolder(folder).run_id
    _mark(point, settings, {sweep_run.ERROR_TAG: point.error}, file=file, status="FAILED")


def _mark(point: Point, settings: Mapping[str, Any], tags: Mapping[str, str], **rest: Any) -> None:
    if point.run_id is not None:
        sweep_run.mark_point(point.run_id, tags, **_where(settings), **rest, warn=failures.warn)


def _where(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"outputs": Path(settings["outputs"]), "uri": settings["tracking"]["uri"]}


def _say(point: Point) -> None:
    if point.workers > 1 or point.status == "PRUNED":
        accuracy = "" if point.objective is None else f", {100 * point.objective:.2f} %"
        print(f"{point.name}: {point.status.lower()}{accuracy}, {point.seconds:.0f} s", flush=True)


@contextlib.contextmanager
def _apart(folder: Path, workers: int) -> Iterator[None]:
    """Where several points would talk at once, each talks to a file."""
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
