"""Figures of a run as PNG, by matplotlib's Figure objects: no window, no global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
COUNTED_CLASSES = 30  # beyond, the counts in a confusion matrix cannot be read
WHOLE: dict[str, Any] = {"integer": True, "steps": [1, 2, 5, 10]}  # ticks at 0, 20, 40, not at 0, 8, 16
COLOURS = {"train": "#8c8c8c", "validation": "#1f77b4", "test": "#d95f02"}


def plot_curves(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Loss and accuracies by epoch, the last values in the legend; ``history`` holds one metrics dict an epoch."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(9.0, 3.6)
    has_loss = any("train/loss" in metrics for metrics in history)
    panels = figure.subplots(1, 1 + has_loss, squeeze=False)[0]
    accuracy = panels[-1]
    if has_loss:
        _curve(panels[0], history, "train/loss", "train", 1.0)
        panels[0].set_title("loss")
        panels[0].set_ylim(bottom=0)
    for split in COLOURS:
        _curve(accuracy, history, f"{split}/accuracy", split, 100.0)
    accuracy.set_title("accuracy (%)")
    for axes in panels:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(**WHOLE))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(history) == 1:
            axes.set_xlim(0.5, 2.0)  # room for the legend
            axes.set_xticks([1])
        axes.legend(frameon=False)
    _save(figure, path)


def plot_confusion(
    matrix: npt.NDArray[np.integer[Any]], classes: Sequence[str], path: Path, what: str = "test set"
) -> None:
    """The confusion matrix (C, C), rows truth and columns prediction; the colour is the share of the row."""
    size = len(classes)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(2.0 + 0.5 * size, 4.5, 12.0))
    figure = _figure(side + 1.2, side)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    if size <= COUNTED_CLASSES:
        for row, column in np.argwhere(matrix):
            colour = "white" if shares[row, column] > 0.5 else "#303030"
            axes.text(column, row, f"{matrix[row, column]}", ha="center", va="center", fontsize=7, color=colour)
    rotation = 0 if max(map(len, classes)) <= 2 else 45 if size <= COUNTED_CLASSES else 90
    axes.set_xticks(range(size), classes, rotation=rotation, ha="right" if rotation == 45 else "center")
    axes.set_yticks(range(size), classes)
    axes.tick_params(length=0, labelsize=8 if size <= COUNTED_CLASSES else 5)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    accuracy = np.trace(matrix) / max(int(matrix.sum()), 1)
    axes.set_title(f"{what}, {int(matrix.sum()):,} samples, {100 * accuracy:.2f} % right", fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the row")
    _save(figure, path)


def plot_raster(layers: Mapping[str, npt.NDArray[np.uint8]], title: str, path: Path) -> None:
    """The spikes of one sample, a panel a layer; each layer is (T, N), a step is 1 ms."""
    from matplotlib.ticker import MaxNLocator

    steps = max(spikes.shape[0] for spikes in layers.values())
    heights = [float(np.clip(spikes.shape[1] / 200, 0.7, 2.0)) for spikes in layers.values()]
    figure = _figure(9.0, 1.0 + 1.1 * sum(heights))
    panels = figure.subplots(len(layers), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, height, (name, spikes) in zip(panels, heights, layers.items(), strict=True):
        at, neuron = np.nonzero(spikes)
        tall = float(np.clip(60.0 * height / spikes.shape[1], 1.7, 6.0))  # points: a stroke fills its neuron's line
        axes.scatter(at, neuron, s=tall**2, marker="|", linewidths=0.8 if steps > 100 else 1.6, color="#1f3b63")
        axes.set_ylim(spikes.shape[1] - 0.5, -0.5)
        axes.set_ylabel("neuron", fontsize=8)
        axes.set_title(f"{name}: {spikes.shape[1]} neurons, {len(at):,} spikes", fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, **WHOLE))
        axes.tick_params(labelsize=8)
    panels[-1].xaxis.set_major_locator(MaxNLocator(**WHOLE))
    panels[-1].set_xlim(-0.5, steps - 0.5)
    panels[-1].set_xlabel("time (ms)")
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def plot_weights(layers: Mapping[str, Sequence[npt.NDArray[np.floating[Any]]]], path: Path) -> None:
    """Histograms of the weights, a panel for each tensor; of each the initial and the trained values, both (S,)."""
    figure, panels = _panels(len(layers))
    for axes, (name, (initial, trained)) in zip(panels, layers.items(), strict=False):
        finite = trained[np.isfinite(trained)].astype(np.float64)  # a training that diverges fills float32
        edges = np.linspace(*_range(np.concatenate([initial, finite])), 61)
        counts = [np.histogram(values, edges)[0] for values in (initial, finite)]
        axes.stairs(counts[0], edges, label="initial", fill=True, color=COLOURS["train"], alpha=0.55)
        axes.stairs(counts[1], edges, label="trained", color=COLOURS["validation"], linewidth=1.2)
        facts = f"mean {finite.mean():.3g}, sd {finite.std():.3g}" if finite.size else "no finite value"
        axes.set_title(f"{name}, {trained.size:,}\n{facts}", fontsize=9)
        axes.set_xlabel("weight", fontsize=8)
    panels[0].legend(frameon=False, fontsize=8)
    _save(figure, path)


def plot_rates(rates: Mapping[str, npt.NDArray[np.floating[Any]]], title: str, path: Path) -> None:
    """Histograms of the firing rates, a panel a layer; rates (N,) are spikes per neuron and presentation."""
    figure, panels = _panels(len(rates))
    for axes, (name, rate) in zip(panels, rates.items(), strict=False):
        edges = np.linspace(0.0, max(float(rate.max()), 1e-3), 41)
        axes.stairs(np.histogram(rate, edges)[0], edges, fill=True, color=COLOURS["validation"])
        silent = int((rate == 0).sum())
        axes.set_title(f"{name}: {rate.size:,} neurons, {silent:,} silent, mean {rate.mean():.3g}", fontsize=9)
        axes.set_xlabel("spikes a presentation", fontsize=8)
        axes.set_ylabel("neurons", fontsize=8)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def plot_cost(layers: Mapping[str, Sequence[float]], energies: Mapping[str, float], title: str, path: Path) -> None:
    """Spikes and synaptic operations of each layer (a pair of them), and energies in nJ."""
    figure = _figure(10.5, 3.4)
    axes = figure.subplots(1, 3)
    spikes, operations = zip(*layers.values(), strict=True)
    for panel, names, values, label in (
        (axes[0], list(layers), spikes, "spikes"),
        (axes[1], list(layers), operations, "synaptic operations"),
        (axes[2], list(energies), list(energies.values()), "energy (nJ), 45 nm"),
    ):
        bars = panel.barh(range(len(names)), list(values), color=COLOURS["validation"])
        panel.bar_label(bars, [f"{value:,.3g}" if value < 100 else f"{value:,.0f}" for value in values], fontsize=8)
        panel.set_yticks(range(len(names)), names, fontsize=8)
        panel.invert_yaxis()
        panel.margins(x=0.3)
        panel.set_title(label, fontsize=9)
        panel.tick_params(axis="x", labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    _save(figure, path)


def _panels(number: int) -> tuple[Figure, list[Axes]]:
    columns = min(number, 3)
    rows = -(-number // columns)
    figure = _figure(3.5 * columns, 2.6 * rows + 0.4)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[number:]:
        axes.set_visible(False)
    for axes in panels[:number]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
    return figure, panels


def _range(values: npt.NDArray[np.floating[Any]]) -> tuple[float, float]:
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _curve(axes: Axes, history: Sequence[Mapping[str, float]], key: str, split: str, scale: float) -> None:
    points = [(epoch, scale * entry[key]) for epoch, entry in enumerate(history, 1) if key in entry]
    if points:
        epochs, values = zip(*points, strict=True)
        marker = "o" if len(points) <= 30 else ""
        size = 3.5 if len(points) > 1 else 7.0
        label = f"{split}  {values[-1]:.2f}" if scale == 100 else f"{split}  {values[-1]:.4g}"
        axes.plot(epochs, values, label=label, color=COLOURS[split], marker=marker, markersize=size)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
