"""Figures of samples: the picture or the sound, and below it the spikes or the values that a network gets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from snnrun.display import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ABREAST = 5  # samples in a row of the figure
_CURVES = 4  # so many channels of values are curves; more are a map
_FEW = 3000  # spikes that leave room for strokes that are taller than their channel
_DARK = "#1f3b63"


class Sample(Protocol):
    """What is drawn of a sample, see `run.look.Look`."""

    @property
    def input(self) -> NDArray[Any]:
        """Spikes, bool (T, N), or values (P, N), each point held for an equal part of the steps."""

    @property
    def steps(self) -> int:
        """T."""

    @property
    def step_ms(self) -> float:
        """Length of a step."""

    @property
    def picture(self) -> NDArray[Any] | None:
        """(channels, rows, columns)."""

    @property
    def series(self) -> NDArray[np.float32] | None:
        """Values (P, F) that spikes were made from."""

    @property
    def wave(self) -> tuple[NDArray[np.float64], int] | None:
        """Samples and their rate."""


def plot_samples(samples: Sequence[Sample], titles: Sequence[str], path: Path) -> None:
    """A column for each sample, five of them in a row of the figure."""
    abreast = min(len(samples), _ABREAST)
    rows = -(-len(samples) // abreast)
    width = 8.0 if abreast == 1 else 3.2 * abreast
    figure = plots.blank(width, (5.2 if abreast == 1 else 4.2) * rows)
    has_source = [
        sample.picture is not None or sample.wave is not None or (sample.series is not None and _spikes(sample))
        for sample in samples
    ]
    heights = [1.0 if abreast == 1 else 0.8, 1.6] * rows if any(has_source) else [1.0] * rows
    panels = figure.subplots(len(heights), abreast, squeeze=False, height_ratios=heights)
    each = 2 if any(has_source) else 1
    for axes in panels.flat:
        axes.set_visible(False)
    for place, (sample, title) in enumerate(zip(samples, titles, strict=True)):
        row, column = each * (place // abreast), place % abreast
        below: Axes = panels[row + each - 1, column]
        below.set_visible(True)
        _draw_input(below, sample, first=column == 0)
        top: Axes = panels[row, column]
        if each == 2 and has_source[place]:
            top.set_visible(True)
            _draw_source(top, sample)
        (top if top.get_visible() else below).set_title(title, fontsize=9, loc="left")
    plots.save(figure, path)


def _spikes(sample: Sample) -> bool:
    return bool(sample.input.dtype == np.bool_)


def _draw_source(axes: Axes, sample: Sample) -> None:
    if sample.wave is not None or sample.series is not None:
        if sample.wave is not None:
            wave, rate = sample.wave
            axes.plot(1000 * np.arange(len(wave)) / rate, wave, linewidth=0.5, color=_DARK)
        elif sample.series is not None:
            points = len(sample.series)
            axes.plot((np.arange(points) + 0.5) * sample.steps * sample.step_ms / points, sample.series, linewidth=0.8)
        axes.set_xlim(0, sample.steps * sample.step_ms)
        axes.tick_params(labelsize=7, labelbottom=False)
        axes.spines[["top", "right"]].set_visible(False)
        return
    picture = np.asarray(sample.picture)
    axes.set_xticks([])
    axes.set_yticks([])
    if len(picture) == 3:
        axes.imshow(np.moveaxis(picture, 0, 2))
        return
    height, width = picture.shape[1:]
    side_by_side = np.concatenate(list(picture), axis=1)
    axes.imshow(side_by_side, cmap="gray_r", aspect="equal" if height > 1 else "auto")
    for plane in range(1, len(picture)):
        axes.axvline(plane * width - 0.5, color="black", linewidth=0.8)


def _draw_input(axes: Axes, sample: Sample, first: bool) -> None:
    """Spikes as strokes; values as curves or a map, and constant ones as bars."""
    from matplotlib.ticker import MaxNLocator

    inputs, channels = sample.input, sample.input.shape[1]
    extent = (0.0, sample.steps * sample.step_ms)
    axes.tick_params(labelsize=7)
    if len(inputs) == 1 and not _spikes(sample):
        axes.bar(np.arange(channels), inputs[0], width=1.0, color=_DARK)
        axes.set_xlabel("channel, with this value at every step", fontsize=8)
        return
    axes.set_xlabel("time (ms)", fontsize=8)
    axes.set_xlim(*extent)
    if not _spikes(sample) and channels <= _CURVES:
        axes.plot((np.arange(len(inputs)) + 0.5) * extent[1] / len(inputs), inputs, linewidth=0.9)
        return
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, **plots.WHOLE))
    if first:
        axes.set_ylabel("channel", fontsize=8)
    if _spikes(sample):
        at, channel = np.nonzero(inputs)
        tall = float(np.clip(160.0 / channels, 3.0 if len(at) < _FEW else 0.8, 6.0))
        times = (at + 0.5) * sample.step_ms
        axes.scatter(times, channel, s=tall**2, marker="|", linewidths=0.7 if tall > 1 else 0.4, color=_DARK)
        axes.set_ylim(channels - 0.5, -0.5)
    else:
        axes.imshow(inputs.T, aspect="auto", cmap="gray_r", extent=(*extent, channels - 0.5, -0.5))
