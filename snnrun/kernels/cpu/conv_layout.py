"""How the loops of spike-train-level convolutions lay out a layer: rows of lanes, in words of 48.

A row of output has its positions side by side, each with all of its kernels: lane p * per + k is kernel k at position
p. `per` is the number of kernels rounded up to a multiple of 16. So a tap's kernels are whole registers, which is twice
as fast to load, and the spikes are those of `columns`. The lanes that fill up have taps 0 and never fire.

The taps are stored in runs, as in `image_layout`. A spike of a pixel adds, in each output row that sees the pixel, one
run to the lanes from `S` on. A word that begins at lane L finds its own part of the run at L - S, and zeros
where it stands beyond the run.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from snnrun.compiled.jit import Floats, Indices
from snnrun.compiled.vector import GROUP, SPLIT
from snnrun.kernels.cpu.arrays import as_floats, check_type
from snnrun.kernels.cpu.image_layout import Layout, runs_of
from snnrun.kernels.neuron import Window

# Lanes of a word, and so the zeros around a run: three registers, so that the processor's eight registers for masks
# have room for the lanes that fired in the last two steps.
WORD = SPLIT

# Bits of a pattern that a table has, see `conv_table_loops`; a pattern has three times as many at most. The bits of a
# row of the input are a word.
THIRD, ROW = 9, 64


class RowTables(NamedTuple):
    """Arrays that go with a layout by rows.

    For each pixel: its `row`; `low` and `high`, the first word of a row that it reaches and the one after the last;
    `start`, where in channel 0's taps lane 0 of output row 0 would find its tap, were the runs endless. For each lane
    of row 0: `place`, its neuron, or -1.
    """

    row: Indices
    low: Indices
    high: Indices
    start: Indices
    place: Indices


class ConvLayer(NamedTuple):
    """A convolution as its loops see it; `taps` in runs."""

    layout: Layout
    tables: RowTables
    taps: Floats


def conv_layer(weight: Tensor, window: Window, scale: float = 1.0) -> ConvLayer:
    """A layer with its weights (K, C, height, width), times `scale`.

    Raises:
        ValueError: the window is larger than the image, or the weights are not float32.
    """
    layout, tables = by_rows(window)
    return ConvLayer(layout, tables, runs_of(weight, layout, scale))


def tables_of(weight: Tensor, window: Window, scale: float) -> Floats | None:
    """The tables of `conv_table_loops`, of taps times `scale`; None if a pattern has too many bits.

    For each group of 16 kernels, third of a pattern and value of that third: the sums of the kernels' taps. The bits of
    a pattern are those of its window row by row and, in a row, channel by channel.

    Raises:
        ValueError: as `conv_layer`.
    """
    check_type(weight.dtype)
    layout, _ = by_rows(window)
    inputs = layout.height * layout.channels * layout.width
    if inputs > 3 * THIRD or layout.columns + 2 * layout.padding > ROW:
        return None
    taps = torch.zeros(3 * THIRD, layout.per)
    taps[:inputs, : layout.kernels] = weight.detach().permute(2, 1, 3, 0).reshape(inputs, layout.kernels) * scale
    bits = torch.arange(2**THIRD)[:, None] >> torch.arange(THIRD) & 1
    tables = bits.float() @ taps.view(3, THIRD, layout.per)
    return as_floats(tables.view(3, 2**THIRD, -1, GROUP).permute(2, 0, 1, 3)).reshape(-1)


@lru_cache(maxsize=64)
def by_rows(window: Window) -> tuple[Layout, RowTables]:
    """The layout of a window's layer; ValueError if the window is larger than the image."""
    if window.out_rows < 1 or window.out_columns < 1:
        raise ValueError(f"the window is larger than the image: {window}")
    per, reach = -(-window.kernels // GROUP) * GROUP, -(-window.width // window.stride)
    lanes = window.out_columns * per
    layout = Layout(
        window.channels, window.rows, window.columns, window.rows * window.columns, window.kernels,
        window.height, window.width, window.stride, window.padding, 1, window.out_rows, window.out_columns,
        1, window.out_columns, lanes, -(-lanes // WORD), per, reach, reach * per + WORD, WORD,
    )  # fmt: skip
    return layout, _tables(layout)


def _tables(layout: Layout) -> RowTables:
    behind, phase = np.divmod(np.arange(layout.columns) + layout.padding, layout.stride)
    begins = (behind - layout.reach + 1) * layout.per  # the lane of a row where a column's run begins
    first, last = begins.clip(min=0), (begins + layout.reach * layout.per).clip(max=layout.lanes) - 1
    reaches = first <= last
    below = (np.arange(layout.rows) + layout.padding) * layout.stride * layout.run
    start = below[:, None] + layout.lead + phase * layout.run - begins
    position, kernel = np.divmod(np.arange(layout.blocks * WORD), layout.per)
    is_neuron = (kernel < layout.kernels) & (position < layout.out_columns)
    place = np.where(is_neuron, kernel * (layout.out_rows * layout.out_columns) + position, -1)
    low, high = np.where(reaches, first // WORD, 0), np.where(reaches, last // WORD + 1, 0)
    rows = np.arange(layout.plane) // layout.columns
    indices = (rows, np.tile(low, layout.rows), np.tile(high, layout.rows), start.reshape(-1), place)
    return RowTables._make(array.astype(np.int32) for array in indices)
