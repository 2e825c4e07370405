"""The loop of `conv_backward`: sums over pairs of an output neuron and an input in its window."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Words, in_64_or_32, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import lanes, load, store, total
from snnrun.kernels.cpu.forward_loops import add_rows
from snnrun.kernels.cpu.image_layout import Convolution
from snnrun.kernels.cpu.image_loops import field, gather_own, is_silent, lanes_of, shift_of, width_at
from snnrun.kernels.cpu.pair_loops import Errors
from snnrun.kernels.cpu.readout_loops import Readout, read_wide_block
from snnrun.kernels.cpu.spike_loops import Listed, Trains


class Lanes(NamedTuple):
    """Room for a sample's layer by lanes: its spikes `own`, scratch `listed` for them, and (64,) of a block each."""

    listed: Listed
    own: Words
    gain: Floats
    credit: Floats


@in_64_or_32
@part
def add_windows(
    like: Any,
    b: int,
    u: int,
    offset: int,
    convolution: Convolution,
    trains: Trains,
    values: Floats,
    gain: Floats,
    credit: Floats,
    gradient: Floats,
    error: Floats,
) -> None:
    """Compute e_.j of a block of strip u's lanes for each input j in its field, in registers, and add its share.

    `values` of the readout have a row of lanes for each step. `gain` and `credit` (64,) are of the block's lanes; there
    is no credit if `error` is (B, 0), and no gain if `gradient` is empty.
    """
    layout, taps, first, width = convolution.layout, convolution.taps, trains.first, lanes(like)
    has_gain, has_credit = gradient.shape[0] > 0, error.shape[1] > 0
    g, c = load(gain, 0, like), load(credit, 0, like)
    row, position = u // layout.strips, u % layout.strips * layout.span
    last = (min(lanes_of(layout, u), offset + width) - 1) // layout.kernels
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
                e = add_rows(like, values, width, 0, trains.times, begin, end)
                place = run + convolution.tables.column[x]
                if has_gain:
                    store(gradient, place, load(gradient, place, like) + g * e)
                if has_credit:
                    error[b, n + x] += total(c * load(taps, place, like) * e)


@part
def gather_lanes(values: Floats, b: int, offset: int, stop: int, place: Indices, shift: int, out: Floats) -> bool:
    """Write the values of a block's neurons to `out` (64,), 0 for a lane without one; return whether any is not 0."""
    found = False
    for i in range(64):
        out[i] = np.float32(0)
        if offset + i < stop and values.shape[1]:
            out[i] = values[b, place[offset + i] + shift]
            found |= out[i] != np.float32(0)
    return found


@jit
def conv_backward(
    words: Words,
    trains: Trains,
    errors: Errors,
    convolution: Convolution,
    readout: Readout,
    room: Lanes,
    parts: Indices,
    gradients: Floats,
    turn: Turn,
) -> None:
    """The parts of a turn of `reference.images.conv_backward`: samples parts[k, 0] ... parts[k, 1] in their order.

    The loop adds to `gradients`, which has those of the parts in runs; between the runs may be any values. If nobody
    trains the weights, `gain` is (B, 0) and each gradient is empty. `readout` is of 64 neurons. Blocks of lanes that
    never fire are skipped.
    """
    layout, place = convolution.layout, convolution.tables.place
    while True:
        k = take(turn)
        if k == NONE:
            return
        gradient = gradients[k]
        for b in range(parts[k, 0], parts[k, 1]):
            gather_own(words, b, convolution.tables.lane, room.listed, room.own)
            for u in range(layout.out_rows * layout.strips):
                stop, shift = lanes_of(layout, u), shift_of(layout, u)
                for offset in range(0, stop, 64):
                    block = u * layout.blocks + offset // 64
                    if is_silent(room.own, block):
                        continue
                    gains = gather_lanes(errors.gain, b, offset, stop, place, shift, room.gain)
                    credits = gather_lanes(errors.credit, b, offset, stop, place, shift, room.credit)
                    if not gains and not credits:
                        continue
                    width = width_at(stop - offset)
                    read_wide_block(width, readout, room.own, block, 0, 0, width)
                    add_windows(
                        width, b, u, offset, convolution, trains, readout.values, room.gain, room.credit, gradient,
                        errors.below,
                    )  # fmt: skip
