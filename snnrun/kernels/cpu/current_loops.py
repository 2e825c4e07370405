"""The loops of `reference.currents`: a first layer that gets currents instead of spikes.

A `Layer` or `StbpLayer` here has the drive of the batch as its `rows`, (B * K * P,), instead of weights. K is `count`:
value k is the drive from step `first_step` of k on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Times, Words, in_64_32_or_16, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import above, choose, lanes, load, splat, store
from snnrun.kernels.cpu.forward_loops import (
    Coupled,
    Fours,
    Layer,
    add_recurrent,
    add_rows,
    begin_coupled,
    hold,
    lif_step,
    take_loop,
)
from snnrun.kernels.cpu.readout_loops import Readout, read_block
from snnrun.kernels.cpu.spike_loops import count_sample, held_bits, list_sparse, list_spikes, valid_bits
from snnrun.kernels.cpu.stbp_loops import StbpLayer, stbp_state


@part
def first_step(k: int, count: int, steps: int) -> int:
    """The first of the steps of value k, ceil(k T / K)."""
    return (k * steps + count - 1) // count


@in_64_32_or_16
@part
def weighted_rows(
    like: Any, rows: Floats, padded: int, offset: int, index: Indices, x: Floats, count: int, out: Floats, place: int
) -> None:
    """Write the sum of the rows of index[:count], each times its x, one block wide, to `out`."""
    sum_ = like
    for k in range(count):
        sum_ = sum_ + splat(x[k], like) * load(rows, np.int64(index[k]) * padded + offset, like)
    store(out, place + offset, sum_)


@jit
def current_drive(
    values: Floats, rows: Floats, padded: int, index: Indices, x: Floats, drive: Floats, turn: Turn
) -> None:
    """The samples of a turn of `reference.current_drive`; the order of a sum does not depend on the batch.

    `values` (B, K, I); `rows` (I * P,) the weights by input; `drive` (B * K * P,). Scratch: `index` and `x` (I,).
    """
    while True:
        b = take(turn)
        if b == NONE:
            return
        for k in range(values.shape[1]):
            count = 0
            for j in range(values.shape[2]):
                if values[b, k, j] != np.float32(0):
                    index[count], x[count] = j, values[b, k, j]
                    count += 1
            place = (b * values.shape[1] + k) * padded
            for offset in range(0, padded, 64):
                weighted_rows(min(64, padded - offset), rows, padded, offset, index, x, count, drive, place)


# ---- spike-train-level rules ----------------------------------------------------------------------------------------


@in_64_32_or_16
@part
def driven_block(like: Any, b: int, offset: int, layer: Layer, count: int, words: Words, counts: Floats) -> None:
    """All steps of a block of uncoupled neurons. A value acts one step after each of its own."""
    lif, steps, w = layer.lif, words.shape[1], offset // 64
    decay_m, decay_s, rise = splat(lif.decay_m, like), splat(lif.decay_s, like), splat(lif.rise, like)
    theta, one, valid = splat(lif.threshold, like), splat(np.float32(1), like), valid_bits(layer.neurons - offset)
    u, a, n = like, like, like
    for k in range(count):
        drive = load(layer.rows, (b * count + k) * layer.padded + offset, like)
        for t in range(first_step(k, count, steps) + 1, min(first_step(k + 1, count, steps) + 1, steps)):
            a = a * decay_s + drive
            u = u * decay_m + a * rise
            u = choose(held_bits(words, b, t, w, lif.t_ref), like, u)
            fired = above(u, theta) & valid
            u = choose(fired, like, u)
            n = choose(fired, n + one, n)
            words[b, t, w] = fired
    store(counts, b * layer.padded + offset, n)


@jit
def lif_driven(layer: Layer, count: int, words: Words, counts: Floats, turn: Turn) -> None:
    """The samples of a turn of `reference.lif_driven` without recurrent synapses, block by block.

    `words` (B, T, W), zeros, and `counts` (B, P) are written.
    """
    while True:
        b = take(turn)
        if b == NONE:
            return
        for offset in range(0, layer.padded, 64):
            driven_block(min(64, layer.padded - offset), b, offset, layer, count, words, counts)


@in_64_32_or_16
@part
def advance_driven(
    like: Any, b: int, t: int, offset: int, place: int, layer: Layer, room: Coupled, looped: int, words: Words
) -> None:
    """Advance a block of coupled neurons by one step, with the drive at rows[place]."""
    drive = load(layer.rows, place + offset, like)
    if looped:
        drive = take_loop(like, drive, offset, room)
    lif_step(like, drive, b, t, offset, layer, room, words)


@jit
def coupled_driven(
    layer: Layer, count: int, fours: Fours, words: Words, counts: Floats, room: Coupled, turn: Turn
) -> None:
    """`lif_driven` of a layer with recurrent synapses: step by step."""
    steps, padded = words.shape[1], layer.padded
    while True:
        b = take(turn)
        if b == NONE:
            return
        begin_coupled(words, b, layer, room)
        for t in range(1, steps):
            looped = list_sparse(words, b, t - 1, room.own)
            add_recurrent(looped, fours, room)
            hold(words, b, t, layer, room)
            place = (b * count + (t - 1) * count // steps) * padded
            for offset in range(0, padded, 64):
                advance_driven(min(64, padded - offset), b, t, offset, place, layer, room, looped, words)
        count_sample(words, b, room.block, counts, layer.neurons)


@in_64_32_or_16
@part
def sum_held(like: Any, values: Floats, steps: int, count: int, sums: Floats, place: int, padded: int) -> None:
    """Write the sums of a block's readout over the steps of each value to sums[place], P places apart."""
    for k in range(count):
        sum_ = like
        for t in range(first_step(k, count, steps), first_step(k + 1, count, steps)):
            sum_ = sum_ + load(values, t * lanes(like), like)
        store(sums, place + k * padded, sum_)


@jit
def readout_sums(words: Words, readout: Readout, count: int, padded: int, sums: Floats, turn: Turn) -> None:
    """The samples of a turn of `reference.readout_sums`; `readout` of 64 neurons; `sums` (B * K * P,)."""
    while True:
        b = take(turn)
        if b == NONE:
            return
        for offset in range(0, padded, 64):
            width = min(64, padded - offset)
            read_block(width, readout, words, b, offset // 64, 0, width)
            sum_held(width, readout.values, words.shape[1], count, sums, b * count * padded + offset, padded)


# ---- STBP -----------------------------------------------------------------------------------------------------------


@in_64_32_or_16
@part
def stbp_driven_step(
    like: Any,
    b: int,
    t: int,
    offset: int,
    place: int,
    layer: StbpLayer,
    own: Times,
    looped: int,
    words: Words,
    membrane: Floats,
    counts: Floats,
    state: Floats,
) -> None:
    """Advance a block by one step, with the drive at rows[place] and the layer's own spikes own[:looped]."""
    drive = load(layer.rows, place + offset, like)
    if looped:
        drive = drive + add_rows(like, layer.recurrent, counts.shape[1], offset, own, 0, looped)
    stbp_state(like, drive, b, t, offset, layer, words, membrane, counts, state)


@jit
def stbp_driven(
    layer: StbpLayer, count: int, words: Words, counts: Floats, membrane: Floats, own: Times, state: Floats, turn: Turn
) -> None:
    """The samples of a turn of `reference.stbp_driven`; arrays and scratch as in `stbp_loops.stbp_coupled`."""
    steps, padded = words.shape[1], counts.shape[1]
    looped = 0
    while True:
        b = take(turn)
        if b == NONE:
            return
        for t in range(steps):
            if layer.recurrent.shape[0]:
                looped = list_spikes(words, b, t - 1, own) if t else 0
            place = (b * count + t * count // steps) * padded
            for offset in range(0, padded, 64):
                width = min(64, padded - offset)
                stbp_driven_step(width, b, t, offset, place, layer, own, looped, words, membrane, counts, state)
