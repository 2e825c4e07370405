"""How the loops over images lay out a convolution: strips of neurons, runs of taps, and the tables between them.

A *strip* is a few neighbouring positions of one output row with all of their kernels, position by position: lane
p * K + k is kernel k at the strip's position p. In each output row that sees an input, a spike of it reaches
neighbouring positions. The taps of a kernel row are stored backwards, so the spike adds one contiguous *run* of taps to
the lanes. On both sides of a run are as many zeros as a strip has lanes. So a loop can load its lanes and need not know
how much of the run falls into the strip.

If a kernel moves by `stride` > 1 columns, a run has every stride-th tap, and there is a run for each remainder.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnrun.compiled.jit import Floats, Indices
from snnrun.kernels.cpu.arrays import as_floats, check_type
from snnrun.kernels.neuron import Window

# Lanes of a strip, unless one position has more. Spikes are listed strip by strip. Wider strips need fewer lists but
# add more zeros.
STRIP = 192


class Layout(NamedTuple):
    """The numbers that the loops need of a layer; `plane` is the number of inputs of one channel.

    A row has `strips` strips of `span` positions, with `lanes` lanes in `blocks` words of 64; a position has `per` of
    them. A run covers `reach` positions; one begins every `run` floats. `lead` zeros come first, as many as are between
    two runs.
    """

    channels: int
    rows: int
    columns: int
    plane: int
    kernels: int
    height: int
    width: int
    stride: int
    padding: int
    pool: int
    out_rows: int
    out_columns: int
    strips: int
    span: int
    lanes: int
    blocks: int
    per: int
    reach: int
    run: int
    lead: int


class Tables(NamedTuple):
    """Arrays that go with a layout.

    `unit` and `address` have entries for each input pixel, from `first[pixel]` on: the strips that its spikes reach,
    and where in channel 0's taps lane 0 of the strip finds its tap. `column`: what a column of the input adds to such
    an address (of position 0). `place`: neuron of each lane in strip 0.
    """

    first: Indices
    unit: Indices
    address: Indices
    column: Indices
    place: Indices


class Convolution(NamedTuple):
    """A layer as its loops see it; `taps` in runs, see `runs_of`."""

    layout: Layout
    tables: Tables
    taps: Floats


def block_width(lanes: int) -> int:
    """How many lanes the loops compute at once if `lanes` are left of a strip; the layout has room for as many."""
    return 64 if lanes > 32 else 32


@lru_cache(maxsize=64)
def layout_of(window: Window) -> tuple[Layout, Tables]:
    """The layout of a window's layer; ValueError if the window is larger than the image."""
    if window.out_rows < 1 or window.out_columns < 1:
        raise ValueError(f"the window is larger than the image: {window}")
    most = max(1, STRIP // window.kernels)
    strips = -(-window.out_columns // most)
    span = -(-window.out_columns // strips)
    lanes = span * window.kernels
    last = (lanes - 1) // 64 * 64  # where the last block begins
    padded, reach = last + block_width(lanes - last), -(-window.width // window.stride)
    layout = Layout(
        window.channels, window.rows, window.columns, window.rows * window.columns, window.kernels,
        window.height, window.width, window.stride, window.padding, window.pool, window.out_rows, window.out_columns,
        strips, span, lanes, last // 64 + 1, window.kernels, reach, reach * window.kernels + padded, padded,
    )  # fmt: skip
    return layout, _tables(layout)


def _tables(layout: Layout) -> Tables:
    by_lane = np.arange(layout.blocks * 64)
    place = by_lane % layout.kernels * (layout.out_rows * layout.out_columns) + by_lane // layout.kernels
    column = np.arange(layout.columns) // layout.pool + layout.padding
    behind, phase = np.divmod(column, layout.stride)
    begins = behind - layout.reach + 1  # the first position that sees a column
    column = layout.lead + phase * layout.run - begins * layout.kernels
    return Tables(*(_as_indices(array) for array in (*_targets(layout, begins, column), column, place)))


def _targets(layout: Layout, begins: NDArray[Any], column: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """`first`, `unit` and `address` of `Tables`; `begins`: the first position that sees a column."""
    first, unit, address = [0], [], []
    seen_rows, seen_columns = layout.rows // layout.pool, layout.columns // layout.pool
    for y in range(layout.rows):
        below = y // layout.pool + layout.padding
        # Output rows that see this one, through row `below - row * stride` of the kernel.
        out = range(max(0, -(-(below - layout.height + 1) // layout.stride)), below // layout.stride + 1)
        rows = [row for row in out if row < layout.out_rows] if y // layout.pool < seen_rows else []
        for x in range(layout.columns):
            start, stop = max(0, begins[x]), min(layout.out_columns, begins[x] + layout.reach)
            if x // layout.pool < seen_columns and start < stop:
                for row in rows:
                    tap = (below - row * layout.stride) * layout.stride * layout.run
                    for strip in range(start // layout.span, (stop - 1) // layout.span + 1):
                        unit.append(row * layout.strips + strip)
                        address.append(column[x] + tap + strip * layout.lanes)
            first.append(len(unit))
    return np.array(first), np.array(unit), np.array(address)


def runs_of(weight: Tensor, layout: Layout, scale: float = 1.0) -> Floats:
    """The taps (K, C, height, width), times `scale`, as runs; ValueError if they are not float32."""
    check_type(weight.dtype)
    taps = weight.detach().permute(1, 2, 3, 0)  # (C, height, width, K)
    missing, idle = layout.reach * layout.stride - layout.width, layout.per - layout.kernels
    if missing or idle:
        taps = torch.nn.functional.pad(taps, (0, idle, 0, missing))
    taps = taps.reshape(layout.channels, layout.height, layout.reach, layout.stride, layout.per)
    runs = torch.zeros(run_floats(layout))
    view = runs[layout.lead :].view(layout.channels, layout.height, layout.stride, layout.run)
    ordered = taps.transpose(2, 3).flip(3).flatten(3)
    view[..., : layout.reach * layout.per] = ordered if scale == 1.0 else ordered * scale
    return as_floats(runs)


def convolution(weight: Tensor, window: Window, scale: float = 1.0) -> Convolution:
    """A layer with its weights (K, C, height, width), times `scale`; ValueError as in `layout_of` and `runs_of`."""
    layout, tables = layout_of(window)
    return Convolution(layout, tables, runs_of(weight, layout, scale))


def taps_of(runs: Tensor, layout: Layout) -> Tensor:
    """A gradient in runs as (K, C, height, width), stored as layers store their weights."""
    view = runs[layout.lead :].view(layout.channels, layout.height, layout.stride, layout.run)
    taps = view[..., : layout.reach * layout.per].reshape(*view.shape[:3], layout.reach, layout.per)
    taps = taps.flip(3).transpose(2, 3).flatten(2, 3)[:, :, : layout.width, : layout.kernels]
    return taps.contiguous().permute(3, 0, 1, 2)


def run_floats(layout: Layout) -> int:
    """Number of floats of all runs, with the zeros around them."""
    return layout.lead + layout.channels * layout.height * layout.stride * layout.run


@lru_cache(maxsize=64)
def pool_tables(window: Window) -> tuple[Indices, Indices]:
    """Where the neurons of a pool that see each input begin (I + 1), and these neurons."""
    sources = _sources(window)
    neuron, k = np.nonzero(sources >= 0)
    channel = np.arange(window.channels)[:, None]
    source = (channel * window.rows * window.columns + sources[neuron, k]).reshape(-1)
    neuron = (channel * window.out_rows * window.out_columns + neuron).reshape(-1)
    by_input = np.argsort(source, kind="stable")
    first = np.searchsorted(source[by_input], np.arange(window.inputs + 1))
    return _as_indices(first), _as_indices(neuron[by_input])


@lru_cache(maxsize=64)
def pool_sources(window: Window, multiple: int) -> Indices:
    """The positions that each position of a pool sees, (positions, M), filled up with -1 to a multiple."""
    sources = _sources(window)
    missing = -sources.shape[1] % multiple
    return _as_indices(np.pad(sources, ((0, 0), (0, missing)), constant_values=-1))


def _sources(window: Window) -> NDArray[np.int64]:
    """The positions that each position of a pool sees, row by row of its window; -1 beyond the edge."""
    row, column, y, x = np.indices((window.out_rows, window.out_columns, window.height, window.width))
    y, x = row * window.stride + y - window.padding, column * window.stride + x - window.padding
    inside = (y >= 0) & (y < window.rows) & (x >= 0) & (x < window.columns)
    sources: NDArray[np.int64] = np.where(inside, y * window.columns + x, -1)
    return sources.reshape(window.out_rows * window.out_columns, -1)


def _as_indices(array: NDArray[Any]) -> Indices:
    indices: Indices = array.astype(np.int32)
    return indices
