"""The loops of STBP's convolutions.

They compute in the lanes of a strip, position by position with all kernels (see `image_layout`); membranes and errors
lie as PyTorch flattens images, kernel by kernel. In between, squares of SQUARE positions and kernels are turned.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Words, in_64_or_32, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import above, choose, load, lowest_bit, splat, store, turn_square, zeros16
from snnrun.kernels.cpu.constants import StbpConstants
from snnrun.kernels.cpu.forward_loops import add_rows
from snnrun.kernels.cpu.image_layout import Convolution, Layout
from snnrun.kernels.cpu.image_loops import Events, add_taps, field, lanes_of, list_events, shift_of, width_at
from snnrun.kernels.cpu.spike_loops import Trains, valid_bits
from snnrun.kernels.cpu.stbp_backward_loops import SQUARE
from snnrun.kernels.cpu.stbp_loops import load_row, store_row
from snnrun.kernels.cpu.usual_loops import split_sides


def room_for_strip(layout: Layout, steps: int) -> Floats:
    """Zeros: the lanes of a strip, `lead` of them a step, and what a square may write beyond them."""
    return np.zeros(steps * layout.lead + (layout.span + 2 * SQUARE) * layout.kernels + SQUARE, np.float32)


def room_for_square() -> Floats:
    """Room for a square that is turned."""
    return np.empty(SQUARE * SQUARE, np.float32)


# ---- forwards -------------------------------------------------------------------------------------------------------


@in_64_or_32
@part
def stbp_lanes(
    like: Any,
    b: int,
    u: int,
    offset: int,
    convolution: Convolution,
    bias: Floats,
    events: Events,
    constants: StbpConstants,
    strip: Floats,
    words: Words,
    counts: Floats,
) -> None:
    """All steps of a block of strip u's lanes, with the events of `sides`; their membranes are written to `strip`."""
    layout, place = convolution.layout, convolution.tables.place
    stop, steps, shift = lanes_of(layout, u), words.shape[1], shift_of(layout, u)
    valid, taps = valid_bits(stop - offset), convolution.taps
    usual = load(bias, offset, like) + add_taps(like, taps, offset, events, u, 0)
    v_th, decay = splat(constants.v_th, like), splat(constants.decays[0], like)
    after_spike = splat(constants.decays[1], like)
    v, fired = like, np.uint64(0)
    for t in range(steps):
        drive = usual + add_taps(like, taps, offset, events, u, 2 * t + 1)
        drive = drive - add_taps(like, taps, offset, events, u, 2 * t + 2)
        v = drive + choose(fired, after_spike, decay) * v
        store(strip, t * layout.lead + offset, v)
        fired = (above(v, v_th) if constants.strict else ~above(v_th, v)) & valid
        rest = fired
        while rest != np.uint64(0):
            n = place[offset + lowest_bit(rest)] + shift
            words[b, t, n >> 6] |= np.uint64(1) << np.uint64(n & 63)
            counts[b, n] += np.float32(1)
            rest &= rest - np.uint64(1)


@part
def write_strip(b: int, u: int, layout: Layout, steps: int, strip: Floats, square: Floats, membrane: Floats) -> None:
    """Write the membranes of a strip to `membrane` (B * T * N,)."""
    area, kernels, shift = layout.out_rows * layout.out_columns, layout.kernels, shift_of(layout, u)
    positions = lanes_of(layout, u) // kernels
    for t in range(steps):
        base = (b * steps + t) * area * kernels + shift
        for p in range(0, positions, SQUARE):
            for k in range(0, kernels, SQUARE):
                turn_square(strip, t * layout.lead + p * kernels + k, kernels, square, 0, SQUARE)
                for i in range(min(SQUARE, kernels - k)):
                    value = load(square, i * SQUARE, zeros16())
                    store_row(membrane, base + (k + i) * area + p, positions - p, value)


@jit
def stbp_conv_forward(
    words_in: Words,
    convolution: Convolution,
    bias: Floats,
    constants: StbpConstants,
    words: Words,
    counts: Floats,
    membrane: Floats,
    sides: Words,
    planes: Words,
    events: Events,
    strip: Floats,
    square: Floats,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.images.stbp_conv_forward`.

    `bias` is that of a strip's lanes. `words` (B, T, W) and `counts` (B, N) must be zeros; `membrane` (B * T * N,) is
    written. Scratch: `sides` (1, 2 T + 1, W), `planes`, see `split_sides`; `events` with room for `sides`; `strip` as
    from `room_for_strip`; `square` (SQUARE * SQUARE,).
    """
    steps = words.shape[1]
    while True:
        b = take(turn)
        if b == NONE:
            return
        split_sides(words_in, b, sides, planes)
        list_events(sides, 0, convolution, events)
        for u in range(events.fill.shape[0]):
            stop = lanes_of(convolution.layout, u)
            for offset in range(0, stop, 64):
                width = width_at(stop - offset)
                stbp_lanes(width, b, u, offset, convolution, bias, events, constants, strip, words, counts)
            write_strip(b, u, convolution.layout, steps, strip, square, membrane)


# ---- to the weights -------------------------------------------------------------------------------------------------


@part
def read_strip(
    b: int, u: int, layout: Layout, steps: int, padded: int, trace: Floats, square: Floats, strip: Floats
) -> None:
    """Write the errors of a strip's neurons in `trace` (B * T * P,) to its lanes, 0 to those beyond.

    A square is written over what others wrote beyond their own kernels: hence the order, and the last kernels first.
    """
    area, kernels, shift = layout.out_rows * layout.out_columns, layout.kernels, shift_of(layout, u)
    positions = lanes_of(layout, u) // kernels
    for t in range(steps):
        base = (b * steps + t) * padded + shift
        for p in range(0, positions, SQUARE):
            for k in range((kernels - 1) // SQUARE * SQUARE, -1, -SQUARE):
                for i in range(SQUARE):
                    value = zeros16()
                    if k + i < kernels:
                        value = load_row(zeros16(), trace, base + (k + i) * area + p, positions - p)
                    store(square, i * SQUARE, value)
                turn_square(square, 0, SQUARE, strip, t * layout.lead + p * kernels + k, kernels)


@in_64_or_32
@part
def add_fields(
    like: Any, b: int, u: int, offset: int, convolution: Convolution, trains: Trains, steps: int, strip: Floats,
    gradient: Floats,
) -> None:  # fmt: skip
    """Add to `gradient` what a block of strip u's lanes gives.

    That is, for each averaged input in its field, the sum of the errors at the spikes of its square, in registers.
    """
    layout, first = convolution.layout, trains.first
    found = np.uint64(0)
    for t in range(steps):
        errors = load(strip, t * layout.lead + offset, like)
        found |= above(errors, like) | above(like, errors)
    if found == np.uint64(0):
        return
    side, row, position = layout.pool, u // layout.strips, u % layout.strips * layout.span
    last = (min(lanes_of(layout, u), offset + width_at(lanes_of(layout, u) - offset)) - 1) // layout.kernels
    y0, y1, x0, x1 = field(layout, row, position + offset // layout.kernels, position + last)
    base = position * layout.kernels + offset
    for channel in range(layout.channels):
        for y in range(y0, y1, side):
            tap = y // side + layout.padding - row * layout.stride
            run = base + (channel * layout.height + tap) * layout.stride * layout.run
            for x in range(x0, x1, side):
                n, spikes, sum_ = channel * layout.plane + y * layout.columns + x, 0, like
                for i in range(n, n + side * layout.columns, layout.columns):
                    begin, end = first[b, i], first[b, i + side]  # the inputs of a row are side by side
                    sum_ = sum_ + add_rows(like, strip, layout.lead, offset, trains.times, begin, end)
                    spikes += end - begin
                if spikes:
                    place = run + convolution.tables.column[x]
                    store(gradient, place, load(gradient, place, like) + sum_)


@jit
def conv_weight_gradient(
    trace: Floats,
    steps: int,
    padded: int,
    trains: Trains,
    convolution: Convolution,
    strip: Floats,
    square: Floats,
    parts: Indices,
    gradients: Floats,
    turn: Turn,
) -> None:
    """Sum over samples, steps and positions of `trace` (B * T * P,) times input spikes, for the parts of a turn.

    The sum of samples parts[k, 0] ... parts[k, 1] is added to gradients[k] in runs. The convolution needs no taps.
    Scratch: `strip` and `square` as in `stbp_conv_forward`.
    """
    layout = convolution.layout
    while True:
        k = take(turn)
        if k == NONE:
            return
        for b in range(parts[k, 0], parts[k, 1]):
            for u in range(layout.out_rows * layout.strips):
                stop = lanes_of(layout, u)
                read_strip(b, u, layout, steps, padded, trace, square, strip)
                for offset in range(0, stop, 64):
                    width = width_at(stop - offset)
                    add_fields(width, b, u, offset, convolution, trains, steps, strip, gradients[k])
