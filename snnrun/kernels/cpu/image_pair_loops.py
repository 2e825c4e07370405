"""The loop of `conv_backward`: sums over pairs of an output neuron and an input in its window."""

from __future__ import annotations

from typing import Any

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Times, Words, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import load, store, total, zeros32, zeros64
from snnrun.kernels.cpu.forward_loops import add_rows
from snnrun.kernels.cpu.image_layout import Layout, Tables
from snnrun.kernels.cpu.image_loops import field, gather_own, is_silent, lanes_of, shift_of, width_at
from snnrun.kernels.cpu.readout_loops import read


@part
def add_windows(
    like: Any,
    b: int,
    u: int,
    offset: int,
    width: int,
    lanes: int,
    layout: Layout,
    column: Indices,
    times: Times,
    first: Indices,
    readout: Floats,
    gain: Floats,
    credit: Floats,
    taps: Floats,
    gradient: Floats,
    error: Floats,
) -> None:
    """e_.j of a block of strip u's lanes for each input j in its field, in registers for as long as it takes.

    `readout` (T * width,), `gain` and `credit` (64,) of the block's lanes; no credit where `error` is (B, 0).
    """
    has_credit = error.shape[1] > 0
    g, c = load(gain, 0, like), load(credit, 0, like)
    row, position = u // layout.strips, u % layout.strips * layout.span
    last = (min(lanes, offset + width) - 1) // layout.kernels
    y0, y1, x0, x1 = field(layout, row, position + offset // layout.kernels, position + last)
    base = position * layout.kernels + offset
    for channel in range(layout.channels):
        for y in range(y0, y1):
            tap = y // layout.pool + layout.padding - row * layout.stride
            run = base + (channel * layout.height + tap) * layout.stride * layout.run
            n = channel * layout.plane + y * layout.columns
            for x in range(x0, x1):
                begin, end = first[b, n + x], first[b, n + x + 1]
                if begin == end:
                    continue
                e = add_rows(like, readout, width, 0, times, begin, end)
                place = run + column[x]
                store(gradient, place, load(gradient, place, like) + g * e)
                if has_credit:
                    error[b, n + x] += total(c * load(taps, place, like) * e)


@part
def gather_lanes(values: Floats, b: int, offset: int, lanes: int, place: Indices, shift: int, out: Floats) -> bool:
    """Values of a block's neurons, `out` (64,), 0 where a lane is none; returns whether any is not 0."""
    found = False
    for i in range(64):
        out[i] = np.float32(0)
        if offset + i < lanes and values.shape[1]:
            out[i] = values[b, place[offset + i] + shift]
            found |= out[i] != np.float32(0)
    return found


@jit
def conv_backward(
    rule: int,
    words: Words,
    times: Times,
    first: Indices,
    gain: Floats,
    credit: Floats,
    taps: Floats,
    layout: Layout,
    tables: Tables,
    constants: Floats,
    kernel: Floats,
    previous: Indices,
    readout: Floats,
    busy: Indices,
    listed: Indices,
    own: Words,
    lane_gain: Floats,
    lane_credit: Floats,
    parts: Indices,
    gradients: Floats,
    error: Floats,
    turn: Turn,
) -> None:
    """The parts of a turn of `reference.images.conv_backward`: samples parts[k, 0] ... parts[k, 1] in their order.

    `times`, `first` (B, I + 1) from `sort_by_neuron`; `gain` (B, N), `credit` (B, N) or (B, 0); `gradients` of the
    parts in runs, to which is added, and which hold anything between them; `error` (B, I) zero, or (B, 0).
    Scratch: `readout` (T * 64,), `lane_gain` and `lane_credit` (64,), others as in `gather_own`. Blocks of lanes
    that never fire are skipped.
    """
    while True:
        k = take(turn)
        if k == NONE:
            return
        gradient = gradients[k]
        for b in range(parts[k, 0], parts[k, 1]):
            gather_own(words, b, tables.lane, busy, listed, own)
            for u in range(layout.out_rows * layout.strips):
                lanes, shift = lanes_of(layout, u), shift_of(layout, u)
                for offset in range(0, lanes, 64):
                    block = u * layout.blocks + offset // 64
                    if is_silent(own, block):
                        continue
                    gains = gather_lanes(gain, b, offset, lanes, tables.place, shift, lane_gain)
                    credits = gather_lanes(credit, b, offset, lanes, tables.place, shift, lane_credit)
                    if not gains and not credits:
                        continue
                    width = width_at(lanes - offset)
                    if width == 64:
                        read(zeros64(), rule, own, block, 0, constants, kernel, previous, readout, 0, 64)
                        add_windows(
                            zeros64(), b, u, offset, width, lanes, layout, tables.column, times, first, readout,
                            lane_gain, lane_credit, taps, gradient, error,
                        )  # fmt: skip
                    else:
                        read(zeros32(), rule, own, block, 0, constants, kernel, previous, readout, 0, 32)
                        add_windows(
                            zeros32(), b, u, offset, width, lanes, layout, tables.column, times, first, readout,
                            lane_gain, lane_credit, taps, gradient, error,
                        )  # fmt: skip
