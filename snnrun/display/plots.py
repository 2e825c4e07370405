"""Figures of a run, by matplotlib's Figure objects: no window, no global state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from snnrun.metric_names import TRAIN_LOSS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
DPI = 120
LETTER = 0.0085  # inches that a letter takes for each point of its font
COUNTED_CLASSES = 30  # beyond, the counts in a confusion matrix cannot be read
WHOLE: dict[str, Any] = {"integer": True, "steps": [1, 2, 5, 10]}  # ticks at 0, 20, 40, not at 0, 8, 16
TOP = 1.0  # of axes, where a title is anyway; matplotlib would measure all ticks to find that out
COLOURS = {"train": "#8c8c8c", "validation": "#1f77b4", "test": "#d95f02"}


class Drawing(NamedTuple):
    """A figure to be drawn: one of the functions below, what it draws, and the file."""

    function: Callable[..., None]
    arguments: tuple[Any, ...]
    path: Path


def draw(drawings: Sequence[Drawing]) -> list[OSError | None]:
    """Draw figures. Returns for each what kept it from its file."""
    failures: list[OSError | None] = []
    for drawing in drawings:
        try:
            drawing.function(*drawing.arguments, drawing.path)
            failures.append(None)
        except OSError as error:
            failures.append(error)
    return failures


def get_ready() -> None:
    """Do what the first figure of a process takes: import matplotlib, find its fonts."""
    figure = blank(1.0, 1.0)
    _axes(figure, 0.2, 0.2, 0.6, 0.6).set_title("a", y=TOP)
    figure.canvas.draw()


def plot_curves(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Loss and accuracies by epoch, the last values in the legend; ``history`` holds one metrics dict an epoch."""
    from matplotlib.ticker import MaxNLocator

    has_loss = any(TRAIN_LOSS in metrics for metrics in history)
    figure, panels = _panels(1 + has_loss, 1 + has_loss, (9.0 - 0.65 * (1 + has_loss)) / (1 + has_loss), 2.8)
    accuracy = panels[-1]
    if has_loss:
        _curve(panels[0], history, TRAIN_LOSS, "train", 1.0)
        panels[0].set_title("loss", y=TOP)
        panels[0].set_ylim(bottom=0)
    for split in COLOURS:
        _curve(accuracy, history, f"{split}/accuracy", split, 100.0)
    accuracy.set_title("accuracy (%)", y=TOP)
    for axes in panels:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(**WHOLE))
        axes.grid(alpha=0.25)
        if len(history) == 1:
            axes.set_xlim(0.5, 2.0)  # room for the legend
            axes.set_xticks([1])
        axes.legend(frameon=False)
    save(figure, path)


def plot_confusion(
    matrix: npt.NDArray[np.integer[Any]], classes: Sequence[str], path: Path, what: str = "test set"
) -> None:
    """The confusion matrix (C, C), rows truth and columns prediction; the colour is the share of the row."""
    size = len(classes)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.9 + 0.5 * size, 3.4, 10.9))
    longest = max(map(len, classes))
    rotation = 0 if longest <= 2 else 45 if size <= COUNTED_CLASSES else 90
    font = 8 if size <= COUNTED_CLASSES else 5
    room = longest * font * LETTER
    below = 0.5 + (0.1 if rotation == 0 else 0.75 * room if rotation == 45 else room)
    figure = blank(0.5 + room + side + 1.1, below + side + 0.4)
    axes = _axes(figure, 0.5 + room, below, side, side)
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    if size <= COUNTED_CLASSES:
        for row, column in np.argwhere(matrix):
            colour = "white" if shares[row, column] > 0.5 else "#303030"
            axes.text(column, row, f"{matrix[row, column]}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(size), classes, rotation=rotation, ha="right" if rotation == 45 else "center")
    axes.set_yticks(range(size), classes)
    axes.tick_params(length=0, labelsize=font)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    accuracy = np.trace(matrix) / max(int(matrix.sum()), 1)
    axes.set_title(f"{what}, {int(matrix.sum()):,} samples, {100 * accuracy:.2f} % right", fontsize=10, y=TOP)
    bar = _axes(figure, 0.5 + room + side + 0.2, below + 0.1 * side, 0.16, 0.8 * side)
    figure.colorbar(image, cax=bar, label="share of the row")
    save(figure, path)


def plot_raster(layers: Mapping[str, npt.NDArray[np.uint8]], title: str, path: Path) -> None:
    """The spikes of one sample, a panel a layer; each layer is (T, N), a step is 1 ms."""
    from matplotlib.ticker import MaxNLocator

    steps = max(spikes.shape[0] for spikes in layers.values())
    heights = [float(np.clip(spikes.shape[1] / 200, 0.7, 2.0)) for spikes in layers.values()]
    figure = blank(9.0, 0.9 + sum(heights) + 0.35 * len(heights))
    top, first = figure.get_figheight() - 0.4, None
    for height, (name, spikes) in zip(heights, layers.items(), strict=True):
        top -= height + 0.35
        axes = _axes(figure, 0.7, top, 8.1, height, sharex=first)
        first = first or axes
        at, neuron = np.nonzero(spikes)
        tall = float(np.clip(60.0 * height / spikes.shape[1], 1.7, 6.0))  # points: a stroke fills its neuron's line
        axes.scatter(at, neuron, s=tall**2, marker="|", linewidths=0.8 if steps > 100 else 1.6, color="#1f3b63")
        axes.set_ylim(spikes.shape[1] - 0.5, -0.5)
        axes.set_ylabel("neuron", fontsize=8)
        axes.set_title(f"{name}: {spikes.shape[1]} neurons, {len(at):,} spikes", fontsize=9, loc="left", y=TOP)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, **WHOLE))
        axes.tick_params(labelsize=8, labelbottom=False)
    axes.tick_params(labelbottom=True)
    axes.xaxis.set_major_locator(MaxNLocator(**WHOLE))
    axes.set_xlim(-0.5, steps - 0.5)
    axes.set_xlabel("time (ms)")
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def plot_weights(layers: Mapping[str, Sequence[npt.NDArray[np.floating[Any]]]], path: Path) -> None:
    """Histograms of weights, a panel for each tensor: its initial values (S,), if they are known, and the trained."""
    figure, panels = _panels(len(layers), 3, 2.9, 1.7)
    for axes, (name, (*initial, trained)) in zip(panels, layers.items(), strict=False):
        finite = trained[np.isfinite(trained)].astype(np.float64)  # a training that diverges fills float32
        edges = np.linspace(*_range(np.concatenate([*initial, finite])), 61)
        for values in initial:
            counts = np.histogram(values, edges)[0]
            axes.stairs(counts, edges, label="initial", fill=True, color=COLOURS["train"], alpha=0.55)
        counts = np.histogram(finite, edges)[0]
        axes.stairs(counts, edges, label="trained", color=COLOURS["validation"], linewidth=1.2)
        facts = f"mean {finite.mean():.3g}, sd {finite.std():.3g}" if finite.size else "no finite value"
        axes.set_title(f"{name}, {trained.size:,}\n{facts}", fontsize=9, y=TOP)
        axes.set_xlabel("weight", fontsize=8)
        axes.tick_params(labelsize=7)
    panels[0].legend(frameon=False, fontsize=8)
    save(figure, path)


def plot_rates(rates: Mapping[str, npt.NDArray[np.floating[Any]]], title: str, path: Path) -> None:
    """Histograms of the firing rates, a panel a layer; rates (N,) are spikes per neuron and presentation."""
    figure, panels = _panels(len(rates), 3, 2.9, 1.7, head=0.35)
    for axes, (name, rate) in zip(panels, rates.items(), strict=False):
        edges = np.linspace(0.0, max(float(rate.max()), 1e-3), 41)
        axes.stairs(np.histogram(rate, edges)[0], edges, fill=True, color=COLOURS["validation"])
        silent = int((rate == 0).sum())
        axes.set_title(f"{name}: {rate.size:,} neurons, {silent:,} silent, mean {rate.mean():.3g}", fontsize=9, y=TOP)
        axes.set_xlabel("spikes a presentation", fontsize=8)
        axes.set_ylabel("neurons", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def plot_cost(layers: Mapping[str, Sequence[float]], energies: Mapping[str, float], title: str, path: Path) -> None:
    """Spikes and synaptic operations of each layer (a pair of them), and energies in nJ."""
    spikes, operations = zip(*layers.values(), strict=True)
    room = [0.2 + max(map(len, names)) * 8 * LETTER for names in (layers, layers, energies)]
    height = max(2.2, 0.25 * len(layers))
    figure, left = blank(sum(room) + 3 * 2.3, height + 1.1), 0.0
    for before, names, values, label in (
        (room[0], list(layers), spikes, "spikes"),
        (room[1], list(layers), operations, "synaptic operations"),
        (room[2], list(energies), list(energies.values()), "energy (nJ), 45 nm"),
    ):
        panel = _axes(figure, left + before, 0.35, 2.15, height)
        left += before + 2.3
        bars = panel.barh(range(len(names)), list(values), color=COLOURS["validation"])
        panel.bar_label(bars, [f"{value:,.3g}" if value < 100 else f"{value:,.0f}" for value in values], fontsize=8)
        panel.set_yticks(range(len(names)), names, fontsize=8)
        panel.invert_yaxis()
        panel.margins(x=0.3)
        panel.set_title(label, fontsize=9, y=TOP)
        panel.tick_params(axis="x", labelsize=7)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def _panels(number: int, columns: int, width: float, height: float, head: float = 0.0) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, filled by rows, each of a size in inches; `head` for a title above all."""
    columns = min(number, columns)
    rows, pitch = -(-number // columns), (width + 0.65, height + 0.85)
    figure = blank(columns * pitch[0], rows * pitch[1] + head)
    places = [divmod(panel, columns) for panel in range(number)]
    return figure, [
        _axes(figure, 0.5 + column * pitch[0], 0.45 + (rows - 1 - row) * pitch[1], width, height)
        for row, column in places
    ]


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


def blank(width: float, height: float) -> Figure:
    """A figure of this size, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float, sharex: Axes | None = None) -> Axes:
    """Axes at a place in inches. A layout that matplotlib finds would take longer than the drawing."""
    across, up = figure.get_size_inches()
    axes = figure.add_axes((left / across, bottom / up, width / across, height / up), sharex=sharex)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the ending of its file names, one of `FORMATS`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".png":
        figure.canvas.print_png(path)  # type: ignore[attr-defined] # `savefig` draws twice
    else:
        figure.savefig(path)
