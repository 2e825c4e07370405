"""The files that a run writes to its folder and hands to its record: weights, figures, and the cost of an inference."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save

from snnrun import data, encoders, tracking
from snnrun.display import console
from snnrun.network.model import Model
from snnrun.record import atomic, names
from snnrun.run import build
from snnrun.train import cost, engine, evaluation, firing

# The cost of an inference is measured on at most so many test samples.
MEASURED = 1000


def write(result: engine.Result, parts: build.Parts, run_dir: Path, tracker: tracking.Tracker) -> cost.Spent | None:
    """Write weights and figures to the run's folder and the record, also after a training that was cut short.

    If the training finished an epoch, this returns the cost of an inference, and the network then has the chosen
    weights (those of the best epoch, if there are any). Otherwise it returns None.
    """
    network, dataset, encoder, device = parts.network, parts.dataset, parts.encoder, parts.device
    for name, state in ((names.LAST, result.last_state), (names.BEST, result.best_state)):
        if state:
            path = run_dir / name
            atomic.write(path, save({key: value.contiguous() for key, value in state.items()}))
            tracker.artifact(path, "weights")
    figures = [_raster(network, dataset, encoder, device, run_dir)] if network.spiking else []
    spent = None
    if result.history and result.confusion is not None:
        console.plot_curves(result.history, run_dir / names.CURVES)
        console.plot_confusion(result.confusion, dataset.classes, run_dir / names.CONFUSION)
        figures += [run_dir / names.CURVES, run_dir / names.CONFUSION]
        network.load_state_dict(result.best_state or result.last_state)
        figures.append(_weights(build.network(parts.values, dataset), network, run_dir))
        fired = firing.record(network, dataset.test, encoder, device, positions=firing.spread(dataset.test, MEASURED))
        spent = cost.spent(network, fired)
        figures += activity_figures(fired, spent, dataset.label, run_dir)
        (run_dir / names.COST).write_text(json.dumps(spent.as_dict(), indent=2) + "\n", encoding="utf-8")
        tracker.artifact(run_dir / names.COST)
        tracker.metrics(result.summary | spent.metrics(), step=len(result.history))
    for path in (*figures, run_dir / names.METRICS):
        tracker.artifact(path, "figures" if path.suffix == ".png" else "")
    return spent


def activity_figures(fired: firing.Firing, spent: cost.Spent, label: str, folder: Path) -> list[Path]:
    """Draw `rates.png` and `cost.png` of a spiking network. Returns their paths; none for other models."""
    if not isinstance(spent, cost.Cost):
        return []
    what = f"{label}, {fired.samples:,} samples, {fired.steps} steps"
    rates, costs = folder / names.RATES, folder / names.COST_FIGURE
    console.plot_rates({name: spikes / fired.samples for name, spikes in fired.spikes.items()}, what, rates)
    layers = {} if spent.input_spikes is None else {"input": (spent.input_spikes, 0.0)}
    layers |= {name: (layer.spikes, layer.operations) for name, layer in spent.layers.items()}
    energies = {
        "synaptic operations": spent.energy_nj,
        "with neurons' updates": spent.energy_with_updates_nj,
        "dense ANN, one pass": spent.ann_energy_nj,
    }
    console.plot_cost(layers, energies, f"an inference: {what}", costs)
    return [rates, costs]


def _raster(
    network: Model, dataset: data.Dataset, encoder: encoders.Encoder, device: torch.device, run_dir: Path
) -> Path:
    path, classes = run_dir / names.RASTER, dataset.classes
    layers, label, predicted = evaluation.record_raster(network, dataset.test, encoder, device)
    title = f"{dataset.label}, test sample 0: {classes[label]}, taken for {classes[predicted]}"
    console.plot_raster(layers, title, path)
    return path


def _weights(initial: Model, trained: Model, run_dir: Path) -> Path:
    """Draw histograms of all weights that exist, before and after the training. Returns the path."""
    before, panels = dict(initial.named_parameters()), {}
    masks = dict(trained.named_buffers())
    for key, value in trained.named_parameters():
        pair = [before[key].detach(), value.detach().cpu()]
        mask = masks.get(key.replace("recurrent_weight", "recurrent_mask"))
        if mask is not None:
            pair = [tensor[mask.cpu()] for tensor in pair]
        panels[trained.called(key)] = [tensor.flatten().numpy() for tensor in pair]
    console.plot_weights(panels, run_dir / names.HISTOGRAMS)
    return run_dir / names.HISTOGRAMS
