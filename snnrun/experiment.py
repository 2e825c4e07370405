"""One run, from its settings to its files: build the parts, train, record. Takes plain values; knows no Hydra."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError

from snnrun import build, data, distributed, encoders, engine, hardware, kernels, parallel, products, report, tracking
from snnrun.distributed import Group
from snnrun.errors import SnnrunError, UsageError
from snnrun.network import Network


class _Observer:
    """Passes what the engine tells to the display, and the metrics of each epoch to the tracker."""

    def __init__(self, display: report.Display, tracker: tracking.Tracker) -> None:
        self._tracker, self._display = tracker, display
        self.epoch_start, self.batch, self.evaluating = display.epoch_start, display.batch, display.evaluating
        self.warn = display.warn

    def epoch_end(self, metrics: dict[str, float]) -> None:
        self._tracker.metrics(metrics, step=int(metrics["epoch"]))
        self._display.epoch_end(metrics)


def run(
    values: Mapping[str, Any], run_dir: Path, *, command: Sequence[str], parent_run_id: str | None = None
) -> engine.Result:
    """Train and evaluate one network, write its files to `run_dir` and record it.

    With `hardware.processes` this process leads others, which do the same but write nothing, see `distributed`.

    Args:
        values: the config as `snnrun.config.plain` gives it, or dictionaries of the same keys.
        run_dir: folder of this run, which exists; what lies in it already is recorded with the run.
        command: the command line, for the record.
        parent_run_id: MLflow run of the sweep that this run is a point of.

    Raises:
        UsageError: the settings do not fit one another or this machine.
        SnnrunError: a corpus is missing or damaged, or the store of the runs cannot be opened.
    """
    with distributed.group(values["hardware"].get("processes", 1), follow, dict(values)) as group:
        return _lead(group, values, run_dir, command, parent_run_id)


def follow(group: Group, values: Mapping[str, Any]) -> engine.Result:
    """Train with the leader of a group, silently."""
    parts = _prepare(group, values)
    return engine.train(
        parts.network,
        parts.dataset,
        parts.encoder,
        engine.Options(**values["train"]),
        seed=values["seed"],
        device=parts.device,
        observer=engine.Silence(),
        group=group,
    )


class _Parts(NamedTuple):
    device: torch.device
    backend: str
    dataset: data.Dataset
    encoder: encoders.Encoder
    network: Network


def _prepare(group: Group, values: Mapping[str, Any]) -> _Parts:
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
    return _Parts(device, backend, dataset, build.encoder(values), build.network(values, dataset))


def _lead(
    group: Group, values: Mapping[str, Any], run_dir: Path, command: Sequence[str], parent_run_id: str | None
) -> engine.Result:
    options = engine.Options(**values["train"])
    started = time.monotonic()
    device, backend, dataset, encoder, network = _prepare(group, values)
    prepared = time.monotonic() - started
    display = report.Display()
    tracker = open_tracker(values, dataset, run_dir, parent_run_id, display)
    status: tracking.Status = "FAILED"
    try:
        tracker.params(values)
        tracker.tags(tracking.provenance(command) | {"device": hardware.describe(device), "kernels": backend})
        tracker.dataset(dataset.label, dataset.digest, _sizes(dataset))
        tracker.tags(
            {
                "processes": str(group.size),
                "data.origin": dataset.origin,
                "data.notes": "; ".join(dataset.notes) or "none",
            }
        )
        for path in (run_dir / "config.yaml", run_dir / ".hydra" / "overrides.yaml"):
            if path.exists():
                tracker.artifact(path, "config")
        tracker.metrics({"time/data_s": prepared}, step=0)
        _say_what_runs(group, values, options, network, dataset, device, backend, run_dir, tracker)
        for note in dataset.notes:
            display.note(f"{dataset.label}: {note}")
        if device.type == "cuda" and backend == "reference" and values["hardware"]["kernels"] == "auto":
            display.note("Triton is not installed: the reference kernels run on the GPU (pip install 'snnrun[gpu]').")
        if not kernels.ready():
            display.note(f"Compiling the {backend} kernels, once on this machine: the first batch takes a while.")
        started = time.monotonic()
        with display:
            result = engine.train(
                network,
                dataset,
                encoder,
                options,
                seed=values["seed"],
                device=device,
                observer=_Observer(display, tracker),
                group=group,
            )
        try:
            products.write(result, network, dataset, encoder, device, run_dir, tracker)
        except (OSError, SafetensorError) as error:
            raise SnnrunError(
                f"{run_dir}: not all files of the run could be written ({error}). Make room there, or give another "
                "folder by outputs=FOLDER."
            ) from None
        finally:  # the accuracies are said whether or not the disk has room
            _say_what_came_out(result, values, time.monotonic() - started, run_dir, tracker)
        status = _STATUS[result.status]
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.finish(status)
    return result


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
    display: report.Display,
) -> tracking.Tracker:
    """Start the record of the run in the store that the config names."""
    settings = dict(values["tracking"])
    corpus = f"{dataset.name}_surrogate" if dataset.origin == "surrogate" else dataset.name
    settings["run_name"] = settings["run_name"] or f"{values['model']['name']}_{corpus}_{values['seed']}"
    return tracking.open_tracker(
        run_dir=run_dir,
        outputs=Path(values["outputs"]),
        parent_run_id=parent_run_id,
        warn=display.warn,
        **settings,
    )


# ---- what a run says -------------------------------------------------------------------------------------------------


def _sizes(dataset: data.Dataset) -> dict[str, int]:
    return {name: len(getattr(dataset, name)) for name in ("train", "validation", "test")}


def _say_what_runs(
    group: Group,
    values: Mapping[str, Any],
    options: engine.Options,
    network: Network,
    dataset: data.Dataset,
    device: torch.device,
    backend: str,
    run_dir: Path,
    tracker: tracking.Tracker,
) -> None:
    epochs = f"{options.epochs} epoch{'s' if options.epochs > 1 else ''}"
    rate = f"learning rate {options.lr:g} ({options.schedule})"
    where = "CPU" if device.type == "cpu" else hardware.describe(device)
    chain = [str(network.inputs), *filter(None, [network.topology]), str(network.sizes[-1])]
    report.header(
        model=values["model"]["name"],
        network="-".join(chain),
        neurons=sum(network.sizes),
        weights=network.synapses(),
        dataset=dataset.label,
        sizes=_sizes(dataset),
        encoder=values["encoder"]["name"],
        steps=values["encoder"]["steps"] or dataset.steps,
        training=f"{epochs}, batches of {options.batch_size}, {rate}",
        device=where if group.size == 1 else f"{group.size} processes, each: {where}",
        threads=parallel.threads(),
        kernels=backend,
        run_dir=run_dir,
        tracking=f"{tracker.run_name} ({tracker.run_id})" if tracker.run_id else None,
    )


def _say_what_came_out(
    result: engine.Result, values: Mapping[str, Any], seconds: float, run_dir: Path, tracker: tracking.Tracker
) -> None:
    outputs = values["outputs"]
    report.summary(
        result.summary,
        epochs=len(result.history),
        seconds=seconds,
        interrupted=result.status == "interrupted",
        weights=run_dir / ("best.safetensors" if result.best_state else "last.safetensors"),
        figures=run_dir,
        tracking=tracker.run_name,
        ui_command=_ui_command(outputs, values["tracking"]["uri"]) if tracker.run_id else None,
    )


def _ui_command(outputs: str, uri: str | None) -> str:
    if uri is not None:
        return uri if uri.startswith("http") else f"snnrun ui --uri {uri}"
    return "snnrun ui" if outputs == "outputs" else f"snnrun ui --outputs {outputs}"
