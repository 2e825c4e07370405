"""The loops of STBP's convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Words, in_64_or_32, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import above, choose, load, lowest_bit, splat, store
from snnrun.kernels.cpu.constants import StbpConstants
from snnrun.kernels.cpu.image_layout import Convolution
from snnrun.kernels.cpu.image_loops import Events, add_taps, lanes_of, list_events, shift_of, width_at
from snnrun.kernels.cpu.image_pair_loops import add_windows
from snnrun.kernels.cpu.spike_loops import Trains, valid_bits


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
    room: Floats,
    words: Words,
    counts: Floats,
    membrane: Floats,
) -> None:
    """All steps of a block of strip u's lanes; `room` (64,) is scratch."""
    place, stop = convolution.tables.place, lanes_of(convolution.layout, u)
    neurons, steps, shift = counts.shape[1], words.shape[1], shift_of(convolution.layout, u)
    valid, offsets = valid_bits(stop - offset), load(bias, offset, like)
    v_th, decay = splat(constants.v_th, like), splat(constants.decays[0], like)
    after_spike = splat(constants.decays[1], like)
    v, fired = like, np.uint64(0)
    for t in range(steps):
        drive = offsets + add_taps(like, convolution.taps, offset, events, u, t)
        v = drive + choose(fired, after_spike, decay) * v
        store(room, 0, v)
        base = (b * steps + t) * neurons + shift
        for i in range(min(64, stop - offset)):
            membrane[base + place[offset + i]] = room[i]
        fired = (above(v, v_th) if constants.strict else ~above(v_th, v)) & valid
        rest = fired
        while rest != np.uint64(0):
            n = place[offset + lowest_bit(rest)] + shift
            words[b, t, n >> 6] |= np.uint64(1) << np.uint64(n & 63)
            counts[b, n] += np.float32(1)
            rest &= rest - np.uint64(1)


@jit
def stbp_conv_forward(
    words_in: Words,
    convolution: Convolution,
    bias: Floats,
    constants: StbpConstants,
    words: Words,
    counts: Floats,
    membrane: Floats,
    events: Events,
    room: Floats,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.images.stbp_conv_forward`.

    `bias` is that of a strip's lanes. `words` (B, T, W) and `counts` (B, N) must be zeros; `membrane` (B * T * N,) is
    written. Scratch `room` as in `stbp_lanes`.
    """
    while True:
        b = take(turn)
        if b == NONE:
            return
        list_events(words_in, b, convolution, events)
        for u in range(events.fill.shape[0]):
            stop = lanes_of(convolution.layout, u)
            for offset in range(0, stop, 64):
                stbp_lanes(
                    width_at(stop - offset), b, u, offset, convolution, bias, events, constants, room, words, counts,
                    membrane,
                )  # fmt: skip


@part
def gather_steps(
    grad_u: Floats,
    base: int,
    steps: int,
    neurons: int,
    place: Indices,
    offset: int,
    width: int,
    stop: int,
    out: Floats,
) -> bool:
    """Write grad_u from `base` on to `out`, a row of `width` lanes for each step; return whether any is not 0."""
    found = False
    for t in range(steps):
        for i in range(width):
            value = np.float32(0)
            if offset + i < stop:
                value = grad_u[base + t * neurons + place[offset + i]]
            out[t * width + i] = value
            found |= value != np.float32(0)
    return found


@jit
def conv_weight_gradient(
    grad_u: Floats,
    steps: int,
    neurons: int,
    trains: Trains,
    convolution: Convolution,
    ones: Floats,
    rows: Floats,
    parts: Indices,
    gradients: Floats,
    error: Floats,
    turn: Turn,
) -> None:
    """Sum over samples, steps and positions of grad_u times input spikes, for the parts of a turn.

    The sum of samples parts[k, 0] ... parts[k, 1] is added to gradients[k] in runs. `grad_u` is (B * T * N,). The
    convolution needs no taps. `ones` (64,); `error` (B, 0); scratch `rows` (T * 64,).
    """
    layout, place = convolution.layout, convolution.tables.place
    while True:
        k = take(turn)
        if k == NONE:
            return
        for b in range(parts[k, 0], parts[k, 1]):
            for u in range(layout.out_rows * layout.strips):
                stop = lanes_of(layout, u)
                for offset in range(0, stop, 64):
                    base, width = b * steps * neurons + shift_of(layout, u), width_at(stop - offset)
                    if gather_steps(grad_u, base, steps, neurons, place, offset, width, stop, rows):
                        add_windows(width, b, u, offset, convolution, trains, rows, ones, ones, gradients[k], error)
