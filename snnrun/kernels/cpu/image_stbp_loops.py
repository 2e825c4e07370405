"""The loops of STBP's convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Times, Words, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import above, choose, load, lowest_bit, splat, store, zeros32, zeros64
from snnrun.kernels.cpu.image_layout import Layout, Tables
from snnrun.kernels.cpu.image_loops import add_taps, lanes_of, list_events, shift_of, width_at
from snnrun.kernels.cpu.image_pair_loops import add_windows
from snnrun.kernels.cpu.spike_loops import valid_bits


@part
def stbp_lanes(
    like: Any,
    b: int,
    u: int,
    offset: int,
    lanes: int,
    layout: Layout,
    place: Indices,
    taps: Floats,
    bias: Floats,
    events: Indices,
    begin: Indices,
    constants: Floats,
    strict: bool,
    room: Floats,
    words: Words,
    counts: Floats,
    membrane: Floats,
) -> None:
    """All steps of a block of strip u's lanes; `room` (64,) is scratch."""
    neurons, steps, shift = counts.shape[1], words.shape[1], shift_of(layout, u)
    valid, offsets = valid_bits(lanes - offset), load(bias, offset, like)
    v_th, decay, after_spike = splat(constants[0], like), splat(constants[1], like), splat(constants[2], like)
    v, fired = like, np.uint64(0)
    for t in range(steps):
        drive = offsets + add_taps(like, taps, offset, events, begin[u, t], begin[u, t + 1])
        v = drive + choose(fired, after_spike, decay) * v
        store(room, 0, v)
        base = (b * steps + t) * neurons + shift
        for i in range(min(64, lanes - offset)):
            membrane[base + place[offset + i]] = room[i]
        fired = (above(v, v_th) if strict else ~above(v_th, v)) & valid
        rest = fired
        while rest != np.uint64(0):
            n = place[offset + lowest_bit(rest)] + shift
            words[b, t, n >> 6] |= np.uint64(1) << np.uint64(n & 63)
            counts[b, n] += np.float32(1)
            rest &= rest - np.uint64(1)


@jit
def stbp_conv_forward(
    words_in: Words,
    taps: Floats,
    bias: Floats,
    layout: Layout,
    tables: Tables,
    constants: Floats,
    strict: bool,
    words: Words,
    counts: Floats,
    membrane: Floats,
    busy: Indices,
    listed: Indices,
    ends: Indices,
    seen: Indices,
    fill: Indices,
    begin: Indices,
    events: Indices,
    room: Floats,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.images.stbp_conv_forward`.

    `bias` of a strip's lanes; `constants`: threshold, decay, decay after a spike; `words` (B, T, W) and `counts` (B, N)
    come in as zeros, `membrane` (B * T * N,) is written. Scratch as in `list_events` and `stbp_lanes`.
    """
    while True:
        b = take(turn)
        if b == NONE:
            return
        list_events(words_in, b, layout, tables, busy, listed, ends, seen, fill, begin, events)
        for u in range(fill.shape[0]):
            lanes = lanes_of(layout, u)
            for offset in range(0, lanes, 64):
                if width_at(lanes - offset) == 64:
                    stbp_lanes(
                        zeros64(), b, u, offset, lanes, layout, tables.place, taps, bias, events, begin, constants,
                        strict, room, words, counts, membrane,
                    )  # fmt: skip
                else:
                    stbp_lanes(
                        zeros32(), b, u, offset, lanes, layout, tables.place, taps, bias, events, begin, constants,
                        strict, room, words, counts, membrane,
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
    lanes: int,
    out: Floats,
) -> bool:
    """Rows of `width` lanes, a step each, of grad_u from `base` on; returns whether any is not 0."""
    found = False
    for t in range(steps):
        for i in range(width):
            value = np.float32(0)
            if offset + i < lanes:
                value = grad_u[base + t * neurons + place[offset + i]]
            out[t * width + i] = value
            found |= value != np.float32(0)
    return found


@jit
def conv_weight_gradient(
    grad_u: Floats,
    steps: int,
    neurons: int,
    times: Times,
    first: Indices,
    layout: Layout,
    tables: Tables,
    ones: Floats,
    rows: Floats,
    parts: Indices,
    gradients: Floats,
    error: Floats,
    turn: Turn,
) -> None:
    """Sum over samples, steps and positions of grad_u times input spikes, for the parts of a turn.

    That of samples parts[k, 0] ... parts[k, 1] is added to gradients[k] in runs.

    `grad_u` (B * T * N,); `times`, `first` (B, I + 1) of the spikes; `ones` (64,); `error` (B, 0); scratch `rows`
    (T * 64,).
    """
    while True:
        k = take(turn)
        if k == NONE:
            return
        gradient = gradients[k]
        for b in range(parts[k, 0], parts[k, 1]):
            for u in range(layout.out_rows * layout.strips):
                lanes = lanes_of(layout, u)
                for offset in range(0, lanes, 64):
                    base, width = b * steps * neurons + shift_of(layout, u), width_at(lanes - offset)
                    if not gather_steps(grad_u, base, steps, neurons, tables.place, offset, width, lanes, rows):
                        continue
                    if width == 64:
                        add_windows(
                            zeros64(), b, u, offset, width, lanes, layout, tables.column, times, first, rows,
                            ones, ones, ones, gradient, error,
                        )  # fmt: skip
                    else:
                        add_windows(
                            zeros32(), b, u, offset, width, lanes, layout, tables.column, times, first, rows,
                            ones, ones, ones, gradient, error,
                        )  # fmt: skip
