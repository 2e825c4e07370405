"""One run, from its settings to its files: build the parts, train, record. It takes plain values, without Hydra."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from snnrun import beside, data, tracking
from snnrun.compiled import jit
from snnrun.display import console, output, plots
from snnrun.errors import SnnrunError
from snnrun.metric_names import BEST_VALIDATION, TRAIN_ACCURACY
from snnrun.network import Network
from snnrun.record import journal, names, run_folder, run_lock
from snnrun.run import ahead, announce, artifacts, build, checkpoint, pretrained
from snnrun.run.build import Parts
from snnrun.train import distributed, engine, hardware
from snnrun.train.distributed import Group

OnEpoch = Callable[[Mapping[str, float]], None]


def run(
    values: Mapping[str, Any],
    run_dir: Path,
    *,
    command: Sequence[str],
    parent_run_id: str | None = None,
    resumed: bool = False,
    accepted: Callable[[], object] | None = None,
    held: bool = False,
    on_epoch: OnEpoch | None = None,
    tags: Mapping[str, str] | None = None,
) -> engine.Result:
    """Train and evaluate one network, write its files to `run_dir` and record it.

    With `hardware.processes` this process leads others, which do the same but write nothing, see `train.distributed`.
    A text that cannot be printed is lost, and the run goes on.

    Args:
        values: the config as `snnrun.config.check.plain` gives it, or dictionaries of the same keys.
        run_dir: folder of this run. It exists already; the config in it is recorded with the run.
        command: the command line, for the record.
        parent_run_id: MLflow run of the sweep that this run is a point of.
        resumed: go on from the checkpoint in `run_dir`, or begin where there is none, in the same MLflow run.
        accepted: called after all checks have passed, before a resumed run changes a file of its folder.
        held: whether the caller holds the folder already, by `run_lock.alone`.
        on_epoch: gets the metrics of each epoch. What it raises ends the training, as an error of the engine does.
        tags: more facts for the record.

    Raises:
        UsageError: the settings do not fit one another or this machine, or another process works on this run.
        SnnrunError: the corpus is missing, damaged or no longer the same, the checkpoint is damaged, the folder or the
            store of the runs cannot be used, or another process of the run has failed.
    """
    processes = values["hardware"].get("processes", 1)
    with (
        output.unfailing(),
        nullcontext() if held else run_lock.alone(run_dir),
        distributed.group(processes, follow, dict(values), str(run_dir), resumed) as group,
    ):
        if not resumed:
            run_folder.check_free(run_dir)
        started = time.monotonic()
        parts = build.parts(values, group)
        prepared = time.monotonic() - started
        ahead.begin(parts.backend)
        kept = _kept(run_dir, parts.dataset) if resumed else None
        taken = None if kept else _pretrain(parts, run_dir)
        display = console.Display()
        tracker = _open_tracker(parts, run_dir, parent_run_id, display, resumed)
        ahead.compile_beside(parts)
        if beside.runs():
            beside.post(plots.get_ready)
        status: tracking.Status = "FAILED"
        try:
            if accepted is not None:
                accepted()
            if parts.values != values:  # the corpus has decided what was left open
                run_folder.RunFolder(run_dir).save(parts.values)
            if resumed:
                _cut_back(run_dir, kept)
            _record(parts, run_dir, tracker, command, tags or {}, prepared, kept)
            announce.what_runs(parts, run_dir, tracker, display, kept)
            if taken is not None:
                display.note(taken)
            result = _train(parts, run_dir, tracker, display, on_epoch, kept)
            status = _STATUS[result.status]
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        finally:
            tracker.finish(status)
        return result


def follow(group: Group, values: Mapping[str, Any], run_dir: str, resumed: bool) -> engine.Result:
    """Train with the leader of a group, silently."""
    parts = build.parts(values, group)
    kept = _kept(Path(run_dir), parts.dataset) if resumed else None
    if kept is None:
        _pretrain(parts, Path(run_dir))
    return engine.train(
        parts.network,
        *parts.seen,
        parts.options,
        seed=parts.values["seed"],
        device=parts.device,
        observer=engine.Silence(),
        start=kept,
        group=group,
    )


def _train(
    parts: Parts,
    run_dir: Path,
    tracker: tracking.Tracker,
    display: console.Display,
    on_epoch: OnEpoch | None,
    kept: engine.Snapshot | None,
) -> engine.Result:
    """Train, then write the files of the run and say what came out."""
    values, digest = parts.values, parts.dataset.digest
    about = {"values": dict(values), "digest": digest, "run_id": tracker.run_id, "version": tracking.version()}
    keeper = checkpoint.Keeper(run_dir, values["checkpoint"]["every_minutes"], about, display.warn)
    initial, started = _initial(parts, kept), time.monotonic()
    with display, jit.compiling(display.compiling):
        result = engine.train(
            parts.network,
            *parts.seen,
            parts.options,
            seed=parts.values["seed"],
            device=parts.device,
            observer=_Observer(display, tracker, on_epoch),
            keeper=keeper,
            start=kept,
            group=parts.group,
        )
    spent, drawings = None, list[plots.Drawing]()
    try:
        with _writing(run_dir):
            spent, drawings = artifacts.write(result, parts, initial, run_dir, tracker)
    finally:  # the accuracies are printed even if the disk is full
        before = len(kept.facts["history"]) if kept is not None else 0
        announce.what_came_out(result, values, before, time.monotonic() - started, spent, run_dir, tracker)
    with _writing(run_dir):
        artifacts.draw(drawings, tracker)
    return result


def _initial(parts: Parts, kept: engine.Snapshot | None) -> dict[str, Tensor] | None:
    """The parameters that a training begins with, or began with if it goes on.

    None if these were those of another run: they may have changed since.
    """
    if kept is not None and parts.values["model"].get("weights"):
        return None
    model = parts.network if kept is None else build.network(parts.values, parts.dataset)
    return {name: parameter.detach().clone().cpu() for name, parameter in model.named_parameters()}


@contextmanager
def _writing(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise SnnrunError(
            f"{run_dir}: not all files of the run could be written ({error}). Make room there, then "
            f"go on from the last checkpoint: snnrun resume {run_dir}"
        ) from None


class _Observer:
    """Passes the engine's reports to the display, and the metrics of each epoch to tracker and `on_epoch`."""

    def __init__(self, display: console.Display, tracker: tracking.Tracker, on_epoch: OnEpoch | None) -> None:
        self._tracker, self._display, self._on_epoch = tracker, display, on_epoch
        self.epoch_start, self.batch, self.evaluating = display.epoch_start, display.batch, display.evaluating
        self.warn = display.warn

    def epoch_end(self, metrics: dict[str, float]) -> None:
        self._tracker.metrics(metrics, step=int(metrics["epoch"]))
        self._display.epoch_end(metrics)
        if self._on_epoch is not None:
            self._on_epoch(metrics)


def _kept(run_dir: Path, dataset: data.Dataset) -> engine.Snapshot | None:
    """The checkpoint of the run, if it has one. Raises SnnrunError if it is damaged or of other data."""
    found = checkpoint.load(run_dir)
    if found is None:
        return None
    if found.about.get("digest") != dataset.digest:
        raise SnnrunError(
            f"{dataset.label}: its samples are no longer those that this run was trained on (digest {dataset.digest}, "
            f"then {found.about.get('digest')}). Put the files back, or train a new run."
        )
    return found.snapshot


def _pretrain(parts: Parts, run_dir: Path) -> str | None:
    """Load the weights that the config names into the network. Returns a note, or None if it names none."""
    source = parts.values["model"].get("weights")
    if not source or not isinstance(parts.network, Network):
        return None
    return pretrained.take(parts.network, source, Path(parts.values["outputs"]), run_dir)


def _cut_back(run_dir: Path, kept: engine.Snapshot | None) -> None:
    """Cut the journal back to the checkpoint, since the training repeats what came after it."""
    try:
        journal.cut_back(run_dir, [] if kept is None else kept.facts["history"])
    except OSError as error:
        raise SnnrunError(f"{run_dir}: the run's journal cannot be written ({error}). Make room there.") from None


_STATUS: dict[str, tracking.Status] = {
    "finished": "FINISHED",
    "interrupted": "KILLED",
    "stopped": "KILLED",
    "diverged": "FAILED",
}


def objective(result: engine.Result) -> float | None:
    """What a sweep optimises: the best validation accuracy, or the last training accuracy if there is no validation.

    It is never a test accuracy, since nothing is chosen on the test samples. None if no epoch was finished.
    """
    if not result.history:
        return None
    return result.summary.get(BEST_VALIDATION, result.history[-1][TRAIN_ACCURACY])


def _open_tracker(
    parts: Parts,
    run_dir: Path,
    parent_run_id: str | None,
    display: console.Display,
    resumed: bool,
) -> tracking.Tracker:
    """Start the record of the run in the store that the config names."""
    values, dataset = parts.values, parts.dataset
    settings = dict(values["tracking"])
    corpus = f"{dataset.name}_surrogate" if dataset.origin == "surrogate" else dataset.name
    settings["run_name"] = settings["run_name"] or f"{values['model']['name']}_{corpus}_{values['seed']}"
    return tracking.open_tracker(
        run_dir=run_dir,
        outputs=Path(values["outputs"]),
        parent_run_id=parent_run_id,
        resumed=resumed,
        warn=display.warn,
        **settings,
    )


def _record(
    parts: Parts,
    run_dir: Path,
    tracker: tracking.Tracker,
    command: Sequence[str],
    tags: Mapping[str, str],
    prepared: float,
    kept: engine.Snapshot | None,
) -> None:
    """Record all that is known before the first batch. For a resumed run, also record what MLflow lacks."""
    dataset = parts.dataset
    tracker.params(parts.values)
    made_by = tracking.provenance(command)
    if kept is not None:  # the run's own command stays
        made_by = {"snnrun.resumed": made_by["snnrun.command"]}
    tracker.tags(made_by | {"device": hardware.describe(parts.device), "kernels": parts.backend} | dict(tags))
    tracker.tags({"processes": str(parts.group.size)})
    if tracker.run_name is not None:  # so that the folder also has the name that MLflow uses
        tracker.tags({run_folder.NAME_TAG: tracker.run_name})
    tracker.dataset(dataset.label, dataset.digest, dataset.sizes)
    tracker.tags({"data.origin": dataset.origin, "data.notes": "; ".join(dataset.notes) or "none"})
    for path in (run_dir / names.CONFIG, run_dir / names.OVERRIDES):
        if path.exists():
            tracker.artifact(path, "config")
    tracker.artifact(build.describe(parts.network, dataset, parts.encoder).save(run_dir))
    if not journal.read(run_dir):
        tracker.metrics({"time/data_s": prepared}, step=0)
    tracker.catch_up()
