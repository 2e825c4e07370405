"""The files that a run writes to its folder and hands to its record: weights, figures, and the cost of an inference."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from snnrun import beside, data, encoders, tracking
from snnrun.display import console, plots
from snnrun.display.plots import Drawing
from snnrun.network.model import Model
from snnrun.record import atomic, names
from snnrun.run import build
from snnrun.train import cost, engine, evaluation, firing

# The cost of an inference is measured on at most so many test samples.
MEASURED = 1000


def write(
    result: engine.Result,
    parts: build.Parts,
    initial: Mapping[str, Tensor] | None,
    run_dir: Path,
    tracker: tracking.Tracker,
) -> tuple[cost.Spent | None, list[Drawing]]:
    """Write weights and costs to the run's folder and the record, also after a training that was cut short.

    If the training finished an epoch, this returns the cost of an inference, and the network then has the chosen
    weights (those of the best epoch, if there are any). Otherwise it returns None. The figures are still to be drawn.
    `initial` are the parameters that the training began with, by name; None if they are not known.
    """
    network, dataset, encoder, device = parts.network, parts.dataset, parts.encoder, parts.device
    for name, state in ((names.LAST, result.last_state), (names.BEST, result.best_state)):
        if state:
            path = run_dir / name
            atomic.write(path, save({key: value.contiguous() for key, value in state.items()}))
            tracker.artifact(path, "weights")
    drawings = [_raster(network, dataset, encoder, device, run_dir)] if network.spiking else []
    spent = None
    if result.history:
        drawings.append(Drawing(console.plot_curves, (result.history,), run_dir / names.CURVES))
        if result.confusion is not None:
            matrix = Drawing(console.plot_confusion, (result.confusion, dataset.classes), run_dir / names.CONFUSION)
            drawings.append(matrix)
        network.load_state_dict(result.best_state or result.last_state)
        drawings.append(_weights(initial, network, run_dir))
        fired = firing.record(network, dataset.test, encoder, device, positions=firing.spread(dataset.test, MEASURED))
        spent = cost.spent(network, fired)
        drawings += activity(fired, spent, dataset.label, run_dir)
        (run_dir / names.COST).write_text(json.dumps(spent.as_dict(), indent=2) + "\n", encoding="utf-8")
        tracker.artifact(run_dir / names.COST)
        tracker.metrics(result.summary | spent.metrics(), step=len(result.history))
    tracker.artifact(run_dir / names.METRICS)
    return spent, drawings


def draw(drawings: Sequence[Drawing], tracker: tracking.Tracker | None = None) -> None:
    """Draw figures, by the process beside this one if there is one, and record them. Raises OSError of a full disk."""
    try:
        failures = beside.post(beside.by_two, plots.draw, drawings).result()
    except beside.Gone:
        failures = plots.draw(drawings)
    for drawing, failure in zip(drawings, failures, strict=True):
        if failure is not None:
            raise failure
        if tracker is not None:
            tracker.artifact(drawing.path, "figures")


def activity(fired: firing.Firing, spent: cost.Spent, label: str, folder: Path) -> list[Drawing]:
    """`rates.png` and `cost.png` of a spiking network; nothing of other models."""
    if not isinstance(spent, cost.Cost):
        return []
    what = f"{label}, {fired.samples:,} samples, {fired.steps} steps"
    rates = {name: spikes / (fired.samples * fired.presentations) for name, spikes in fired.spikes.items()}
    layers = {} if spent.input_spikes is None else {"input": (spent.input_spikes, 0.0)}
    layers |= {name: (layer.spikes, layer.operations) for name, layer in spent.layers.items()}
    energies = {
        "synaptic operations": spent.energy_nj,
        "with neurons' updates": spent.energy_with_updates_nj,
        "dense ANN, one pass": spent.ann_energy_nj,
    }
    return [
        Drawing(console.plot_rates, (rates, what), folder / names.RATES),
        Drawing(console.plot_cost, (layers, energies, f"an inference: {what}"), folder / names.COST_FIGURE),
    ]


def _raster(
    network: Model, dataset: data.Dataset, encoder: encoders.Encoder, device: torch.device, run_dir: Path
) -> Drawing:
    classes = dataset.classes
    layers, label, predicted = evaluation.record_raster(network, dataset.test, encoder, device)
    title = f"{dataset.label}, test sample 0: {classes[label]}, taken for {classes[predicted]}"
    return Drawing(console.plot_raster, (layers, title), run_dir / names.RASTER)


def _weights(initial: Mapping[str, Tensor] | None, trained: Model, run_dir: Path) -> Drawing:
    """Histograms of all weights that exist, before (where that is known) and after the training."""
    masks, panels = dict(trained.named_buffers()), {}
    for key, value in trained.named_parameters():
        pair = [value.detach().cpu()] if initial is None else [initial[key], value.detach().cpu()]
        mask = masks.get(key.replace("recurrent_weight", "recurrent_mask"))
        if mask is not None:
            pair = [tensor[mask.cpu()] for tensor in pair]
        panels[trained.called(key)] = [tensor.flatten().numpy() for tensor in pair]
    return Drawing(console.plot_weights, (panels,), run_dir / names.HISTOGRAMS)
