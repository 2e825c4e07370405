"""Around `snnrun train`: the checks before a folder is made; how a sweep begins, is resumed and ends."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf

from snnrun import beside
from snnrun.config import compose, failures
from snnrun.config.check import check, check_paths, check_sweep
from snnrun.config.paths import quoted
from snnrun.errors import SnnrunError, UsageError, warn
from snnrun.record import names, run_folder, run_lock
from snnrun.sweep import points, study, sweeper, table
from snnrun.sweep.points import Point, Sweep, key_of

FLAGS = ("-m", "--multirun")
# Arguments that say where and how points run, not which points. A resumed sweep may get others.
FREE = ("sweep.", "hardware", "hydra", "tracking", "outputs=", "search.trials=", "search.parallel=", "search.minutes=")

LAUNCHER = "hydra/launcher"

NAMED = 8  # failed points in a message
GRACE = 5.0  # seconds to wait for interrupted workers


class Lifecycle(Callback):
    """Hydra's callback: it checks a single run and takes its folder before Hydra does, and starts a sweep's parent run.

    Hydra turns the errors of a callback into warnings. SystemExit is not changed.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check the config of a single run, and take its folder if it is free."""
        _checked(config, sweep=False)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Create the store, before several workers try it at once, and the sweep's parent run in it."""
        _checked(config, sweep=True)


def overrides_of(hydra_cfg: Any) -> list[str]:
    """The overrides as they were typed. `data.root=${oc.env:HOME}`, for example, is not resolved."""
    task: ListConfig = hydra_cfg.overrides.task
    return [str(override) for override in task._iter_ex(resolve=False)]


def _checked(cfg: DictConfig, *, sweep: bool) -> None:
    overrides = overrides_of(cfg.hydra)
    from snnrun import tracking

    try:
        tracking.get_ready(cfg.tracking.kind, Path(cfg.outputs), cfg.tracking.uri)
        compose.check_pairs(overrides)
        _check_hydra(cfg.hydra)
        if sweep:
            _meet(cfg)
            _start(cfg)
            return
        check(cfg)
        check_paths({"hydra.run.dir": cfg.hydra.run.dir})
        for key, wanted in (("search", cfg.search.method != "grid"), ("sweep.resume", cfg.sweep.resume is not None)):
            if wanted:
                raise UsageError(f"{key}: is for sweeps. Write snnrun train -m ...")
        _meet(cfg)
        _take(Path(cfg.hydra.run.dir))
    except Exception as error:
        raise SystemExit(failures.report(error, overrides)) from None


def _check_hydra(settings: DictConfig) -> None:
    """Refuse settings of Hydra that do not work with a run or a sweep."""
    if settings.job.chdir:
        raise UsageError(
            "hydra.job.chdir: is false. Paths on the command line mean the folder they were typed in, and all runs "
            "there share one store."
        )
    if OmegaConf.to_container(settings.sweep, resolve=False)["subdir"] != "${hydra.job.num}":  # type: ignore[index, call-overload]
        raise UsageError(
            "hydra.sweep.subdir: the points of a sweep have numbered folders, by which it is resumed. Name the sweep's "
            "own folder by hydra.sweep.dir=FOLDER."
        )


_folder: Path | None = None  # the folder of the single run, if this process has taken it
_held = contextlib.ExitStack()


def _take(folder: Path) -> None:
    """Keep others out of a run's folder, from before its first file is written until `close`."""
    global _folder
    run_folder.check_free(folder)  # before the lock, which would be a file in it
    folder.mkdir(parents=True, exist_ok=True)
    _held.enter_context(run_lock.alone(folder))
    run_folder.check_free(folder)
    _folder = folder.resolve()


def holds(folder: Path) -> bool:
    """Whether this process has taken the folder for a single run."""
    return _folder is not None and folder.resolve() == _folder


def _release() -> None:
    global _folder
    _folder = None
    _held.close()


def _meet(cfg: DictConfig) -> None:
    """Under a launcher such as torchrun, wait until all its processes are there, before a folder is made."""
    if "RANK" in os.environ:
        from snnrun.train import launcher

        launcher.meet(cfg.hardware.wait_minutes)


def wait_minutes(arguments: Sequence[str]) -> float:
    """`hardware.wait_minutes` from the command line, for a process that composes nothing.

    Raises:
        UsageError: it is not a number greater than 0.
    """
    from snnrun.train import launcher

    text = _value(arguments, "hardware.wait_minutes")
    with contextlib.suppress(ValueError):
        number = launcher.WAIT_MINUTES if text is None else float(text)
        if number > 0:
            return number
    raise UsageError(f"hardware.wait_minutes: {text} is not a number greater than 0")


# ---- resuming --------------------------------------------------------------------------------------------------------


def resumed(arguments: Sequence[str]) -> list[str]:
    """The arguments. If they name a sweep to resume: with its own arguments, but for the keys that they give anew.

    A command that also names the folder by `hydra.sweep.dir` says all that is to run: of the sweep's own arguments only
    those that do not decide it are added.

    Raises:
        UsageError: there is no such sweep, or the command lacks -m.
    """
    name = _value(arguments, "sweep.resume")
    if name in (None, "", "null"):
        return list(arguments)
    assert name is not None
    if not any(flag in arguments for flag in FLAGS):
        raise UsageError("sweep.resume: is for sweeps. Write snnrun train -m sweep.resume=...")
    folder = points.find_sweep(name, Path(_value(arguments, "outputs") or "outputs"))
    recorded = points.read_sweep(folder)
    assert recorded is not None
    given = [argument for argument in arguments if argument not in FLAGS and key_of(argument) != "hydra.sweep.dir"]
    whole = _value(arguments, "hydra.sweep.dir") is not None
    taken = {key_of(argument) for argument in given}
    before = [argument for argument in recorded.arguments if not whole or argument.startswith(FREE)]
    before = [argument for argument in before if key_of(argument) not in taken]
    if _value(given, LAUNCHER) not in (None, _value(recorded.arguments, LAUNCHER)):  # another launcher has other keys
        before = [argument for argument in before if not key_of(argument).startswith("hydra.launcher.")]
    return [FLAGS[0], *before, *given, f"hydra.sweep.dir={quoted(str(folder))}"]


def _value(arguments: Sequence[str], key: str) -> str | None:
    values = [argument.partition("=")[2].strip("'\"") for argument in arguments if key_of(argument) == key]
    return values[-1] if values else None


# ---- a sweep's beginning and end -------------------------------------------------------------------------------------


@dataclass
class _Running:
    """The sweep that this process started. Its points may run in other processes."""

    folder: Path
    record: Sweep
    where: dict[str, Any]  # its store
    tracked: bool
    lock: contextlib.ExitStack


_running: _Running | None = None


def _start(cfg: DictConfig) -> None:
    global _running
    folder = Path(cfg.hydra.sweep.dir).resolve()
    _check(cfg, folder)
    lock, new = contextlib.ExitStack(), not folder.exists()
    try:
        lock.enter_context(points.hold(folder))
        record = points.read_sweep(folder) or Sweep(_arguments())
        where = {"outputs": Path(cfg.outputs), "uri": cfg.tracking.uri}
        tracked = cfg.tracking.kind == "mlflow"
        if tracked:
            _open_parent(cfg, folder, record, where)
        if cfg.sweep.resume is None or any(not argument.startswith(FREE) for argument in _arguments()):
            record.arguments = _arguments()
        record.save(folder)
    except BaseException:
        lock.close()
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    _running = _Running(folder, record, where, tracked, lock)


def _arguments() -> list[str]:
    """The arguments of this command, without those that resume a sweep."""
    return [
        text for text in sys.argv[1:] if text not in FLAGS and key_of(text) not in ("sweep.resume", "hydra.sweep.dir")
    ]


def _check(cfg: DictConfig, folder: Path) -> None:
    check_sweep(cfg)
    check_paths({"hydra.sweep.dir": cfg.hydra.sweep.dir})
    if cfg.hydra.sweeper._target_ != sweeper.TARGET:
        raise UsageError("hydra/sweeper: snnrun sweeps by its own. Choose by search=grid, random or optuna.")
    if cfg.search.method == "optuna":
        study.require_optuna()
    sweeper.workers(cfg.hydra.launcher)
    there = (folder / names.SWEEP).exists()
    if cfg.sweep.resume is None and there:
        raise UsageError(
            f"hydra.sweep.dir: {folder} has a sweep. Go on with it by sweep.resume, or name another folder."
        )
    if cfg.sweep.resume is not None and not there:
        raise UsageError("sweep.resume: belongs on the command line, not into a file.")
    active = [point for point in points.attempts(folder) if points.busy(point.folder(folder))]
    if active:
        numbers = ", ".join(str(point.number) for point in active)
        raise UsageError(
            f"sweep.resume: points of {folder.name} are at work still: {numbers}. Wait for them, or end them."
        )
    if cfg.tracking.kind == "mlflow":
        _check_place(cfg)


def _check_place(cfg: DictConfig) -> None:
    """Refuse an sqlite store that several machines would write to over a network."""
    from snnrun.tracking import file_of, sweep_run

    uri = cfg.tracking.uri
    place = file_of(uri) if uri else Path(cfg.outputs)
    if place is None or not cfg.hydra.launcher._target_.endswith("SlurmLauncher"):
        return
    kind = sweep_run.network_mount(place)
    if kind is not None:
        raise UsageError(
            f"{'tracking.uri' if uri else 'outputs'}: {place.resolve()} is on a network file system ({kind}), where an "
            "sqlite store that several machines write to loses runs. Start a server (mlflow server --host 0.0.0.0 "
            "--backend-store-uri sqlite:////LOCAL/DISK/mlflow.db) and give tracking.uri=http://HOST:5000, or "
            "tracking=none."
        )


def _open_parent(cfg: DictConfig, folder: Path, record: Sweep, where: dict[str, Any]) -> None:
    from snnrun import tracking
    from snnrun.tracking import sweep_run

    if record.parent_run_id is not None:
        beside.ask(sweep_run.reopen_sweep, record.parent_run_id, **where)
        return
    record.parent_run_id = beside.ask(
        sweep_run.start_sweep,
        **where,
        experiment=cfg.tracking.experiment,
        run_name=cfg.tracking.run_name or folder.name,
        tags=tracking.provenance(["snnrun", "train", "-m", *_arguments()]) | {tracking.RUN_DIR_TAG: str(folder)},
    )


def close(status: Literal["FINISHED", "FAILED", "KILLED"]) -> int:
    """End the sweep, print its table and name the points that failed. Returns the exit code; 0 if there is no sweep.

    This also releases the folder of a single run.
    """
    global _running
    _release()
    running, _running = _running, None
    if running is None:
        return 0
    with running.lock:
        return _close(running, status)


def _close(running: _Running, status: Literal["FINISHED", "FAILED", "KILLED"]) -> int:
    from snnrun.display import console
    from snnrun.tracking import sweep_run

    folder = running.folder
    killed = _bury(folder)
    every = points.attempts(folder)
    if not every:
        _withdraw(running)
        return 0
    last = points.latest(every)
    failed = [point for point in last if point.status == "FAILED"]
    rows = table.rows(last, _configs(last, folder))
    keys = table.swept(last, rows)
    files = table.write(rows, keys, folder) if rows else []
    best = max((point.objective for point in last if point.objective is not None), default=None)
    if running.tracked and running.record.parent_run_id is not None:
        _ask(
            sweep_run.close_sweep,
            running.record.parent_run_id,
            "FAILED" if failed and status == "FINISHED" else status,
            **running.where,
            files=files,
            metrics={} if best is None else {"objective_best": best},
            killed=killed,
            superseded=[point.run_id for point in every if point not in last and point.run_id],
        )
    console.sweep_table(rows, keys)
    _say_what_failed(failed, folder)
    missing = [point for point in last if point.status not in (*points.DONE, "FAILED")]
    if missing or status == "KILLED":
        outputs = running.where["outputs"]
        where = "" if str(outputs) == "outputs" else f" outputs={shlex.quote(str(outputs))}"
        print(f"Go on by: snnrun train -m sweep.resume={folder.name}{where}", flush=True)
    return SnnrunError.exit_code if failed else 0


def _withdraw(running: _Running) -> None:
    """Remove all of a sweep that made no point, since its arguments were wrong."""
    from snnrun.tracking import sweep_run

    if running.record.parent_run_id is not None and running.tracked:
        _ask(sweep_run.delete_sweep, running.record.parent_run_id, **running.where)
    shutil.rmtree(running.folder, ignore_errors=True)


def _ask(function: Callable[..., None], *arguments: Any, **options: Any) -> None:
    """Have a function of `sweep_run` called in the process beside this one, and pass on its warnings."""
    from snnrun.tracking import sweep_run

    for warning in beside.ask(sweep_run.warned, function, *arguments, **options):
        warn(warning)


def _bury(folder: Path) -> list[str]:
    """Mark the attempts whose process has gone without a result as killed. Returns their MLflow runs.

    Workers that shall end get `GRACE` seconds to write what they have.
    """
    runs, deadline = [], time.monotonic() + GRACE
    for point in points.attempts(folder):
        if point.status != "RUNNING":
            continue
        while points.busy(point.folder(folder)) and time.monotonic() < deadline:
            time.sleep(0.1)
        now = points.read_point(point.folder(folder))
        if now is None or now.status != "RUNNING" or points.busy(point.folder(folder)):
            continue
        now.status, now.run_id = "KILLED", run_folder.RunFolder(point.folder(folder)).run_id
        now.save(folder)
        runs += [now.run_id] if now.run_id else []
    return runs


def _configs(last: list[Point], folder: Path) -> dict[int, dict[str, str]]:
    from snnrun import tracking

    found = {}
    for point in last:
        with contextlib.suppress(SnnrunError):  # it has not begun, or its disk was full
            found[point.number] = tracking.flatten(run_folder.RunFolder(point.folder(folder)).values())
    return found


def _say_what_failed(failed: list[Point], folder: Path) -> None:
    if failed:
        told = [point.name for point in failed[:NAMED]]
        told += [f"and {len(failed) - NAMED} more"] if len(failed) > NAMED else []
        print(
            f"snnrun: {len(failed)} of the points failed: {', '.join(told)}. "
            f"Each folder under {shlex.quote(str(folder))} has the reason in {names.ERROR}.",
            file=sys.stderr,
        )
