"""One run, from its settings to its files: build the parts, train, record. Takes plain values; knows no Hydra."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError

from snnrun import data, encoders, kernels, tracking
from snnrun.compiled import parallel
from snnrun.display import console, output
from snnrun.errors import SnnrunError, UsageError
from snnrun.network import Network
from snnrun.record import journal, names, run_folder, run_lock
from snnrun.run import artifacts, build, checkpoint
from snnrun.train import distributed, engine, hardware, memory
from snnrun.train.cost import Cost
from snnrun.train.distributed import Group

OnEpoch = Callable[[Mapping[str, float]], None]


class _Observer:
    """Passes what the engine tells to the display, and the metrics of each epoch to the tracker."""

    def __init__(self, display: console.Display, tracker: tracking.Tracker, on_epoch: OnEpoch | None) -> None:
        self._tracker, self._display, self._on_epoch = tracker, display, on_epoch
        self.epoch_start, self.batch, self.evaluating = display.epoch_start, display.batch, display.evaluating
        self.warn = display.warn

    def epoch_end(self, metrics: dict[str, float]) -> None:
        self._tracker.metrics(metrics, step=int(metrics["epoch"]))
        self._display.epoch_end(metrics)
        if self._on_epoch is not None:
            self._on_epoch(metrics)


@output.unfailing()
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

    With `hardware.processes` this process leads others, which do the same but write nothing, see `distributed`. What
    cannot be printed meanwhile is lost without harm.

    Args:
        values: the config as `snnrun.config.check.plain` gives it, or dictionaries of the same keys.
        run_dir: folder of this run, which exists; what lies in it already is recorded with the run.
        command: the command line, for the record.
        parent_run_id: MLflow run of the sweep that this run is a point of.
        resumed: go on from the checkpoint in `run_dir`, or begin where there is none, in the same MLflow run.
        accepted: called once nothing refuses the run any more, before a run that goes on changes a file of its folder.
        held: whether the caller holds the folder already, by `run_lock.alone`.
        on_epoch: told the metrics of each epoch; what it raises ends the training as it would from the engine.
        tags: more facts for the record.

    Raises:
        UsageError: the settings do not fit one another or this machine, or another process works on this run.
        SnnrunError: a corpus is missing or damaged or no longer the same, the checkpoint is damaged, or the folder or
            the store of the runs cannot be used.
    """
    with (
        nullcontext() if held else run_lock.alone(run_dir),
        distributed.group(values["hardware"].get("processes", 1), follow, dict(values), str(run_dir), resumed) as group,
    ):
        if not resumed:
            run_folder.check_free(run_dir)
        started = time.monotonic()
        parts = _prepare(group, values, run_dir)
        prepared = time.monotonic() - started
        kept = _kept(run_dir, parts.dataset) if resumed else None
        display = console.Display()
        tracker = open_tracker(values, parts.dataset, run_dir, parent_run_id, display, resumed)
        status: tracking.Status = "FAILED"
        try:
            if accepted is not None:
                accepted()
            if resumed:
                _cut_back(run_dir, kept)
            _record_what_runs(parts, tracker, command, tags or {}, prepared, kept)
            _say_what_runs(parts, tracker, display, kept)
            result = _train(parts, tracker, display, on_epoch, kept)
            status = _STATUS[result.status]
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        finally:
            tracker.finish(status)
        return result


def follow(group: Group, values: Mapping[str, Any], run_dir: str, resumed: bool) -> engine.Result:
    """Train with the leader of a group, silently."""
    parts = _prepare(group, values, Path(run_dir))
    return engine.train(
        parts.network,
        parts.dataset,
        parts.encoder,
        engine.Options(**values["train"]),
        seed=values["seed"],
        device=parts.device,
        observer=engine.Silence(),
        start=_kept(parts.run_dir, parts.dataset) if resumed else None,
        group=group,
    )


def _prepare(group: Group, values: Mapping[str, Any], run_dir: Path) -> _Parts:
    """What every process of a run needs. The leader downloads and encodes what has to be, on all cores."""
    wanted = values["hardware"]
    device = hardware.set_up(wanted["device"], wanted["threads"], group.place, group.here)
    backend = kernels.use(wanted["kernels"], device.type)
    threads = parallel.threads()
    with group.first():
        parallel.set_threads(threads * group.here if group.leads else threads)
        dataset = build.load(values)
        parallel.set_threads(threads)
    if len(dataset.train) < group.size:
        raise UsageError(f"hardware.processes: {group.size} processes for {len(dataset.train)} training samples")
    encoder, layers = build.encoder(values), build.plan(values, dataset)
    batch = min(values["train"]["batch_size"], len(dataset.train)) // group.size
    steps = encoder.steps or dataset.steps
    memory.check(values, layers, inputs=dataset.channels, steps=steps, batch=batch, device=device)
    return _Parts(group, values, run_dir, dataset, encoder, build.network(values, dataset), device, backend)


class _Parts(NamedTuple):
    """What a run consists of."""

    group: Group
    values: Mapping[str, Any]
    run_dir: Path
    dataset: data.Dataset
    encoder: encoders.Encoder
    network: Network
    device: torch.device
    backend: str


def _train(
    parts: _Parts,
    tracker: tracking.Tracker,
    display: console.Display,
    on_epoch: OnEpoch | None,
    kept: engine.Snapshot | None,
) -> engine.Result:
    group, values, run_dir, dataset, encoder, network, device, _ = parts
    about = {"values": dict(values), "digest": dataset.digest, "run_id": tracker.run_id, "version": tracking.version()}
    keeper = checkpoint.Keeper(run_dir, values["checkpoint"]["every_minutes"], about, display.warn)
    started = time.monotonic()
    with display:
        result = engine.train(
            network,
            dataset,
            encoder,
            engine.Options(**values["train"]),
            seed=values["seed"],
            device=device,
            observer=_Observer(display, tracker, on_epoch),
            keeper=keeper,
            start=kept,
            group=group,
        )
    spent = None
    try:
        spent = artifacts.write(result, values, network, dataset, encoder, device, run_dir, tracker)
    except (OSError, SafetensorError) as error:
        raise SnnrunError(
            f"{run_dir}: not all files of the run could be written ({error}). Make room there, then "
            f"go on from the last checkpoint: snnrun resume {run_dir}"
        ) from None
    finally:  # the accuracies are said whether or not the disk has room
        _say_what_came_out(result, values, time.monotonic() - started, spent, run_dir, tracker)
    return result


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


def _cut_back(run_dir: Path, kept: engine.Snapshot | None) -> None:
    """Have the journal end where the checkpoint does: what came after it comes again."""
    try:
        journal.cut_back(run_dir, [] if kept is None else kept.facts["history"])
    except OSError as error:
        raise SnnrunError(f"{run_dir}: the run's journal cannot be written ({error}). Make room there.") from None


_STATUS: dict[str, tracking.Status] = {"finished": "FINISHED", "interrupted": "KILLED", "diverged": "FAILED"}


def objective(result: engine.Result) -> float | None:
    """What a sweeper optimises: the best validation accuracy, or without a validation split the last training accuracy.

    Never a test accuracy: settings are not chosen on the test samples. None if no epoch was finished.
    """
    if not result.history:
        return None
    return result.summary.get("validation/accuracy_best", result.history[-1]["train/accuracy"])


def open_tracker(
    values: Mapping[str, Any],
    dataset: data.Dataset,
    run_dir: Path,
    parent_run_id: str | None,
    display: console.Display,
    resumed: bool = False,
) -> tracking.Tracker:
    """Start the record of the run in the store that the config names."""
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


# ---- what a run says and records ------------------------------------------------------------------------------------


def _record_what_runs(
    parts: _Parts,
    tracker: tracking.Tracker,
    command: Sequence[str],
    tags: Mapping[str, str],
    prepared: float,
    kept: engine.Snapshot | None,
) -> None:
    """Everything about the run that is known before its first batch, and what MLflow lacks of a run that goes on."""
    dataset, run_dir = parts.dataset, parts.run_dir
    tracker.params(parts.values)
    made_by = tracking.provenance(command)
    if kept is not None:  # the run's own command stays
        made_by = {"snnrun.resumed": made_by["snnrun.command"]}
    tracker.tags(made_by | {"device": hardware.describe(parts.device), "kernels": parts.backend} | dict(tags))
    tracker.tags({"processes": str(parts.group.size)})
    if tracker.run_name is not None:  # so that the folder, too, knows what MLflow calls it
        tracker.tags({run_folder.NAME_TAG: tracker.run_name})
    tracker.dataset(dataset.label, dataset.digest, _sizes(dataset))
    tracker.tags({"data.origin": dataset.origin, "data.notes": "; ".join(dataset.notes) or "none"})
    for path in (run_dir / names.CONFIG, run_dir / names.OVERRIDES):
        if path.exists():
            tracker.artifact(path, "config")
    tracker.artifact(build.describe(parts.network, dataset, parts.encoder).save(run_dir))
    if not journal.read(run_dir):
        tracker.metrics({"time/data_s": prepared}, step=0)
    tracker.catch_up()


def _sizes(dataset: data.Dataset) -> dict[str, int]:
    return {name: len(getattr(dataset, name)) for name in ("train", "validation", "test")}


def _say_what_runs(
    parts: _Parts, tracker: tracking.Tracker, display: console.Display, kept: engine.Snapshot | None
) -> None:
    values, dataset, network, device = parts.values, parts.dataset, parts.network, parts.device
    options = engine.Options(**values["train"])
    epochs = f"{options.epochs} epoch{'s' if options.epochs > 1 else ''}"
    rate = f"learning rate {options.lr:g} ({options.schedule})"
    where = "CPU" if device.type == "cpu" else hardware.describe(device)
    chain = [str(network.inputs), *filter(None, [network.topology]), str(network.sizes[-1])]
    console.header(
        model=values["model"]["name"],
        network="-".join(chain),
        neurons=sum(network.sizes),
        weights=network.synapses(),
        dataset=dataset.label,
        sizes=_sizes(dataset),
        encoder=values["encoder"]["name"],
        steps=values["encoder"]["steps"] or dataset.steps,
        training=f"{epochs}, batches of {options.batch_size}, {rate}",
        device=where if parts.group.size == 1 else f"{parts.group.size} processes, each: {where}",
        threads=parallel.threads(),
        kernels=parts.backend,
        run_dir=parts.run_dir,
        tracking=f"{tracker.run_name} ({tracker.run_id}) in {_store(values)}" if tracker.run_id else None,
    )
    for note in dataset.notes:
        display.note(f"{dataset.label}: {note}")
    if kept is not None:
        tally, epoch = kept.facts["tally"], len(kept.facts["history"]) + 1
        inside = f" after {tally['samples']:,} of its samples" if tally else ""
        ended = epoch > options.epochs
        display.note("Trained to its end: its files follow." if ended else f"Going on in epoch {epoch}{inside}.")
    if device.type == "cuda" and parts.backend == "reference" and values["hardware"]["kernels"] == "auto":
        display.note("Triton is not installed: the reference kernels run on the GPU (pip install 'snnrun[gpu]').")
    if not kernels.ready():
        display.note(f"Compiling the {parts.backend} kernels, once on this machine: the first batch takes a while.")


def _say_what_came_out(
    result: engine.Result,
    values: Mapping[str, Any],
    seconds: float,
    spent: Cost | None,
    run_dir: Path,
    tracker: tracking.Tracker,
) -> None:
    outputs = values["outputs"]
    console.summary(
        result.summary,
        epochs=len(result.history),
        seconds=seconds,
        interrupted=result.status == "interrupted",
        go_on=f"snnrun resume {run_dir}" if result.status == "interrupted" else None,
        cost=None if spent is None else str(spent),
        weights=run_dir / (names.BEST if result.best_state else names.LAST),
        figures=run_dir,
        tracking=tracker.run_name,
        ui_command=_ui_command(outputs, values["tracking"]["uri"]) if tracker.run_id else None,
    )


def _store(values: Mapping[str, Any]) -> str:
    return tracking.place_of(values["tracking"]["uri"], Path(values["outputs"]))


def _ui_command(outputs: str, uri: str | None) -> str:
    if uri is not None:
        return (
            uri if uri.startswith("http") else "snnrun ui" if uri == tracking.usual_uri() else f"snnrun ui --uri {uri}"
        )
    return "snnrun ui" if outputs == "outputs" else f"snnrun ui --outputs {outputs}"
