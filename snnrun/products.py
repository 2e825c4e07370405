"""The files that a run leaves in its folder and hands to its record: weights and figures."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from snnrun import data, encoders, engine, report, tracking
from snnrun.network import Network


def write(
    result: engine.Result,
    network: Network,
    dataset: data.Dataset,
    encoder: encoders.Encoder,
    device: torch.device,
    run_dir: Path,
    tracker: tracking.Tracker,
) -> None:
    """Weights and figures into the run's folder and the record, also of a training that was cut short."""
    for name, state in (("last", result.last_state), ("best", result.best_state)):
        if state:
            path = run_dir / f"{name}.safetensors"
            save_file({key: value.contiguous() for key, value in state.items()}, path)
            tracker.artifact(path, "weights")
    layers, label, predicted = engine.record_raster(network, dataset.test, encoder, device)
    classes = dataset.classes
    figures = [run_dir / "raster.png"]
    report.plot_raster(
        layers, f"{dataset.label}, test sample 0: {classes[label]}, taken for {classes[predicted]}", figures[0]
    )
    if result.history and result.confusion is not None:
        figures += [run_dir / "curves.png", run_dir / "confusion.png"]
        report.plot_curves(result.history, figures[1])
        report.plot_confusion(result.confusion, dataset.classes, figures[2])
        tracker.metrics(result.summary, step=len(result.history))
    for path in (*figures, run_dir / "metrics.jsonl"):
        tracker.artifact(path, "figures" if path.suffix == ".png" else "")
