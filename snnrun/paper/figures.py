"""The learning curves of `snnrun report` as SVG: ours over seeds, the authors' points beside them."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from snnrun.paper.compare import Part
from snnrun.paper.published import Published

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "#808080"  # of text and axes: to be read on white and on black
LEGEND = 72  # characters of settings: a longer legend leaves no room for the curves
COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#c0392b", "#17a2b8", "#b8860b", "#e377c2")


def curves(part: Part) -> bytes | None:
    """Test accuracy by epoch of one corpus as SVG on a transparent ground; None where no run has a curve.

    A line is the mean over seeds and the band its least and greatest; crosses are the authors' log, a dashed line the
    level of the published best. At most as many settings as there are colours are drawn, the best of each rule and
    network first.
    """
    entries = [entry for entry in part.entries if any(ours.curve for ours in entry.ours)]
    if not entries:
        return None
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Text stays text, and the same figures give the same file.
    style: Any = {"svg.hashsalt": "snnrun", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9.0}
    style["text.parse_math"] = False  # a dollar sign in a label is no formula
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9.0, 4.2), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0.0)
        axes = figure.subplots()
        axes.patch.set_alpha(0.0)
        _draw(axes, part)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _draw(axes: Axes, part: Part) -> None:
    from matplotlib.ticker import MaxNLocator

    longest = max(len(ours.curve) for entry in part.entries for ours in entry.ours)
    # The best setting of every rule and network comes before the second of any.
    turns = sorted(
        ((place, entry, ours) for entry in part.entries for place, ours in enumerate(entry.ours) if ours.curve),
        key=lambda turn: turn[0],
    )
    colour_of: dict[str, str] = {}
    for colour, (place, entry, ours) in zip(COLOURS, turns, strict=False):
        epochs = range(1, len(ours.curve) + 1)
        mean, low, high = zip(*ours.curve, strict=True)
        label = f"{entry.name}{f': {_shortened(ours.label)}' if ours.label else ''} (n {len(ours.group.runs)})"
        axes.plot(epochs, mean, color=colour, label=label, marker="o" if len(epochs) <= 30 else "", markersize=3.5)
        axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
        if place == 0:
            colour_of[entry.name] = colour
    for entry in part.entries:
        if entry.published is not None and entry.published.curve:
            _authors(axes, entry.name, entry.published, colour_of.get(entry.name, GREY), longest)
    axes.set_xlabel("epoch", color=GREY)
    axes.set_ylabel("test accuracy (%)", color=GREY)
    axes.set_xlim(left=0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.tick_params(colors=GREY)
    axes.grid(color=GREY, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.legend(frameon=False, labelcolor=GREY, fontsize=8, loc="lower right")


def _shortened(label: str) -> str:
    """The first settings of a label, as many as have room in the legend, and how many follow."""
    first, *others = re.split(r", (?=[\w.]+=)", label)
    while others and len(f"{first}, {others[0]}") <= LEGEND:
        first += f", {others.pop(0)}"
    return f"{first} and {len(others)} more" if others else first


def _authors(axes: Axes, name: str, row: Published, colour: str, longest: int) -> None:
    """The authors' points up to a little beyond the end of our curves; the level of their best as a dashed line."""
    end = max(longest * 1.5, 20)
    points = {epoch: value for epoch, value in row.curve.items() if epoch <= end}
    axes.plot(list(points), list(points.values()), "x", color=colour, markersize=7, label=f"{name}: authors' log")
    if row.best is not None:
        axes.axhline(row.best, color=colour, linestyle="--", linewidth=0.9, alpha=0.8, label=f"{name}: published best")
