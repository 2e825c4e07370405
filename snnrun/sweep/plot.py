"""The figure of a sweep, as PNG: parallel coordinates of the searched keys and the objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = Sequence[float | str]
DPI = 120
LOGARITHMIC = 20.0  # an axis is logarithmic if its largest value is this many times its smallest
TICKS = 5
LABEL = 18  # most characters of a value


def plot_parallel(columns: Mapping[str, Values], objective: Sequence[float], path: Path) -> None:
    """Draw a line for each point, through its values to the last axis, the objective (percent, higher is better).

    ``columns`` has for each key a list of values, one a point. The objective gives the colour. The best is on top.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    axes_of = {**columns, "objective %": list(objective)}
    figure = Figure(figsize=(max(5.0, 1.9 * len(axes_of)), 4.6), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    heights = np.array([_axis(axes, at, values) for at, values in enumerate(axes_of.values())])
    shares = _share(np.array(objective, dtype=float))
    for point in np.argsort(objective):
        colour = colormaps["viridis_r"](0.05 + 0.95 * shares[point])
        axes.plot(heights[:, point], color=colour, alpha=0.35 + 0.6 * shares[point], linewidth=1 + 1.2 * shares[point])
    axes.set_xticks(range(len(axes_of)), list(axes_of), fontsize=9)
    axes.tick_params(length=0, pad=8)
    axes.set_yticks([])
    axes.set_xlim(-0.35, len(axes_of) - 0.55)
    axes.set_ylim(-0.05, 1.05)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{len(objective)} points, best {max(objective):.2f} %", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _axis(axes: Axes, at: int, values: Values) -> npt.NDArray[np.float64]:
    """Draw one axis. Returns the height of each value on it, from 0 to 1."""
    axes.plot([at, at], [0, 1], color="#303030", linewidth=0.8, zorder=10)
    if any(isinstance(value, str) for value in values):
        names = sorted({str(value) for value in values})
        place = dict(zip(names, _share(np.arange(len(names), dtype=float)), strict=True))
        labels = {place[text]: text for text in names}
        heights = np.array([place[str(value)] for value in values])
    else:
        numbers = np.array(values, dtype=float)
        by_log = bool(numbers.min() > 0 and numbers.max() / numbers.min() >= LOGARITHMIC)
        ticks = np.unique(numbers)
        if len(ticks) > TICKS:
            ticks = (np.geomspace if by_log else np.linspace)(numbers.min(), numbers.max(), TICKS)
        scaled = np.log if by_log else np.asarray
        heights = _share(scaled(numbers))
        labels = {height: f"{tick:.4g}" for height, tick in zip(_share(scaled(ticks)), ticks, strict=True)}
    for height, text in labels.items():
        axes.plot([at - 0.02, at], [height, height], color="#303030", linewidth=0.8, zorder=10)
        short = text if len(text) <= LABEL else f"{text[: LABEL - 1]}…"
        box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
        axes.text(at + 0.04, height, short, fontsize=7.5, va="center", zorder=11, bbox=box)
    return heights


def _share(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values scaled to 0 ... 1, or all 0.5 if they are equal."""
    spread = float(np.ptp(values)) if len(values) else 0.0
    return (values - values.min()) / spread if spread else np.full(len(values), 0.5)
