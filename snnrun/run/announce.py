"""What a run says on the terminal when it begins and when it has ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snnrun import kernels, tracking
from snnrun.compiled import parallel
from snnrun.config import effects
from snnrun.display import console
from snnrun.record import names
from snnrun.run.build import Parts
from snnrun.train import hardware, patience
from snnrun.train.cost import Spent
from snnrun.train.progress import Result, Snapshot


def what_runs(
    parts: Parts, run_dir: Path, tracker: tracking.Tracker, display: console.Display, kept: Snapshot | None
) -> None:
    """Before the first batch: print network, corpus, machine, places and notes."""
    values, dataset, network, device, options = parts.values, parts.dataset, parts.network, parts.device, parts.options
    epochs = (
        f"{'' if options.patience is None else 'at most '}{options.epochs} epoch{'s' if options.epochs > 1 else ''}"
    )
    tuned = values.get("tuned") or {"about": None, "rate": None}  # a run of before may lack it
    scaled = f"; {tuned['rate']}" if tuned["rate"] else ""
    rate = f"learning rate {options.lr:g} ({options.schedule}{scaled})"
    where = "CPU" if device.type == "cpu" else hardware.describe(device)
    console.header(
        model=values["model"]["name"],
        network=network.chain,
        neurons=sum(network.sizes),
        weights=network.synapses(),
        dataset=dataset.label,
        sizes=dataset.sizes,
        encoder=values["encoder"]["name"],
        steps=values["encoder"].get("steps") or dataset.steps,
        training=f"{epochs}, batches of {options.batch_size}, {rate}",
        settings=tuned["about"],
        device=where if parts.group.size == 1 else f"{parts.group.size} processes, each: {where}",
        threads=parallel.threads(),
        kernels=parts.backend,
        run_dir=run_dir,
        tracking=f"{tracker.run_name} ({tracker.run_id}) in {_store(values)}" if tracker.run_id else None,
    )
    if options.average != "none":
        which = "after every update" if options.average == "ema" else f"from epoch {options.first_averaged + 1} on"
        display.note(
            f"Weights are averaged {which} (train.average={options.average}): validation, test, the best epoch and the "
            "files of weights are of the average; training accuracy is not."
        )
    for message in effects.without_effect(values):
        display.warn(message)
    for note in dataset.notes:
        display.note(f"{dataset.label}: {note}")
    if kept is not None:
        tally, epoch = kept.facts["tally"], len(kept.facts["history"]) + 1
        inside = f" after {tally['samples']:,} of its samples" if tally else ""
        ended = patience.over(kept.facts["history"], options.epochs, options.patience)
        display.note("Trained to its end: its files follow." if ended else f"Going on in epoch {epoch}{inside}.")
    if device.type == "cuda" and parts.backend == "reference" and values["hardware"]["kernels"] == "auto":
        display.note("Triton is not installed: the reference kernels run on the GPU (pip install 'snnrun[gpu]').")
    if not kernels.ready():
        display.note(f"Compiling the {parts.backend} kernels, once on this machine: the first batch takes a while.")


def what_came_out(
    result: Result,
    values: Mapping[str, Any],
    before: int,
    seconds: float,
    spent: Spent | None,
    run_dir: Path,
    tracker: tracking.Tracker,
) -> None:
    """At the end: print accuracies, time, the cost of an inference, and where the files are.

    A run that went on had `before` epochs then; `seconds` is the time of the others.
    """
    outputs = values["outputs"]
    console.summary(
        result.summary,
        epochs=len(result.history),
        before=before,
        seconds=seconds,
        ended="interrupted: what was reached is kept" if result.status == "interrupted" else result.message or None,
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
            uri if tracking.is_server(uri) else "snnrun ui" if uri == tracking.usual_uri() else f"snnrun ui --uri {uri}"
        )
    return "snnrun ui" if outputs == "outputs" else f"snnrun ui --outputs {outputs}"
