"""The loops of STBP that run backwards: through time and to the layer below.

A *trace* has dL/du of some samples, row t of sample b at (b * T + t) * P; SLAYER's has its own error of each step. It
has room for SQUARE rows more, since the loops read as many rows at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Times, Words, in_64_32_or_16, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import (
    above,
    choose,
    load,
    load_one,
    splat,
    store,
    store_some,
    total,
    turn_square,
    zeros16,
)
from snnrun.kernels.cpu.constants import StbpConstants
from snnrun.kernels.cpu.spike_loops import ROOM, list_bits, valid_bits
from snnrun.kernels.cpu.stbp_loops import load_row, near_block, slope_at

# Steps whose errors go below together, in the lanes of a vector; the inputs that they reach go EIGHT at a time.
SQUARE, EIGHT = 16, 8


class Scan(NamedTuple):
    """What the recursion backwards reads of some samples of a layer.

    `words` (B, T, W); `grad` (B * T * N,) is dL/do, or (B * N,) if it is the `same` in all steps; `membrane` and, if
    the surrogate derivative is given, `given` (B * T * N,); `recurrent` (N * P,), weights by pre-neuron, or empty.
    """

    words: Words
    grad: Floats
    same: bool
    membrane: Floats
    given: Floats
    recurrent: Floats
    neurons: int
    padded: int
    constants: StbpConstants


class Below(NamedTuple):
    """What carries the errors of a layer to its inputs, and room for it.

    `rows` (I * P,) has the weights by input. Only the inputs of `near` (B, T, W) get their errors, or all if it is
    (0, 0, 0); the others get 0. `error` (B * T * I,) is written. Scratch: `columns` (P * SQUARE,), the errors of a
    neuron side by side; `busy` (P,) neurons with errors; `listed` inputs; `sums` (SQUARE * 64 * W_in,); `square`.
    """

    rows: Floats
    inputs: int
    near: Words
    error: Floats
    columns: Floats
    busy: Indices
    listed: Times
    sums: Floats
    square: Floats


def room_below(rows: Floats, inputs: int, padded: int, near: Words, error: Floats) -> Below:
    """`Below` with its room; without inputs nothing goes below."""
    words, neurons = (inputs + 63) // 64, padded if inputs else 0
    return Below(
        rows, inputs, near, error,
        columns=np.empty(neurons * SQUARE, np.float32),
        busy=np.empty(neurons, np.int32),
        listed=np.empty(64 * words + ROOM, np.uint16),
        sums=np.empty(64 * words * SQUARE, np.float32),
        square=np.empty(SQUARE * SQUARE, np.float32),
    )  # fmt: skip


# ---- through time ---------------------------------------------------------------------------------------------------


@part
def step_back(like: Any, b: int, t: int, offset: int, scan: Scan, ahead: Any, looped: Any) -> Any:
    """dL/du of a block at step t; `ahead` is that of step t + 1, `looped` what it sends back by recurrent synapses."""
    constants, left = scan.constants, scan.neurons - offset
    place = (b * scan.words.shape[1] + t) * scan.neurons + offset
    u = load_row(like, scan.membrane, place, left)
    grad = load_row(like, scan.grad, b * scan.neurons + offset if scan.same else place, left)
    h = slope_at(like, u, scan.given, place, left, constants)
    if not constants.temporal:
        return grad * h
    fired, slopes, decays = scan.words[b, t, offset // 64], constants.slopes, constants.decays
    grad = grad + looped + ahead * u * choose(fired, splat(slopes[1], like), splat(slopes[0], like))
    return grad * h + ahead * choose(fired, splat(decays[1], like), splat(decays[0], like))


@in_64_32_or_16
@part
def block_back(like: Any, b: int, offset: int, t: int, stop: int, scan: Scan, trace: Floats, sums: Floats) -> None:
    """The steps t ... stop of a block of uncoupled neurons; adds them up in `sums` (B * P,)."""
    steps, padded = scan.words.shape[1], scan.padded
    ahead, sum_ = like, like
    if stop < steps:
        ahead = load(trace, (b * steps + stop) * padded + offset, like)
        sum_ = load(sums, b * padded + offset, like)
    for step in range(stop - 1, t - 1, -1):
        ahead = step_back(like, b, step, offset, scan, ahead, like)
        store(trace, (b * steps + step) * padded + offset, ahead)
        sum_ = sum_ + ahead
    store(sums, b * padded + offset, sum_)


@in_64_32_or_16
@part
def coupled_back(
    like: Any, b: int, t: int, offset: int, scan: Scan, looped: Floats, trace: Floats, sums: Floats
) -> None:
    """Step t of a block of coupled neurons."""
    steps, padded = scan.words.shape[1], scan.padded
    place, ahead = (b * steps + t) * padded + offset, like
    if t + 1 < steps:
        ahead = load(trace, place + padded, like)
    ahead = step_back(like, b, t, offset, scan, ahead, load(looped, offset, like))
    store(trace, place, ahead)
    store(sums, b * padded + offset, load(sums, b * padded + offset, like) + ahead)


@part
def list_near(b: int, t: int, scan: Scan, listed: Times) -> int:
    """List the neurons whose surrogate derivative is not 0 at step t; returns their number."""
    count = 0
    for offset in range(0, scan.padded, 64):
        place, width = (b * scan.words.shape[1] + t) * scan.neurons + offset, min(64, scan.padded - offset)
        left = scan.neurons - offset
        bits = near_block(width, scan.membrane, scan.given, place, left, scan.constants)
        count = list_bits(bits, offset, listed, count)
    return count


@part
def multiply_rows(
    rows: Floats, padded: int, listed: Times, count: int, values: Floats, place: int, out: Floats
) -> None:
    """Write the product of row j of `rows` with the P values from `place` on to out[j], for the j of listed[:count]."""
    last = count - 1
    for k in range(0, count, 4):
        i, j, m, n = listed[k], listed[min(k + 1, last)], listed[min(k + 2, last)], listed[min(k + 3, last)]
        at_i, at_j, at_m, at_n = np.int64(i) * padded, np.int64(j) * padded, np.int64(m) * padded, np.int64(n) * padded
        x, y, z, w = zeros16(), zeros16(), zeros16(), zeros16()
        for offset in range(0, padded, 16):
            value = load(values, place + offset, zeros16())
            x = x + value * load(rows, at_i + offset, zeros16())
            y = y + value * load(rows, at_j + offset, zeros16())
            z = z + value * load(rows, at_m + offset, zeros16())
            w = w + value * load(rows, at_n + offset, zeros16())
        out[i], out[j], out[m], out[n] = total(x), total(y), total(z), total(w)


@part
def coupled_tile(
    b: int, t: int, stop: int, scan: Scan, trace: Floats, sums: Floats, looped: Floats, listed: Times
) -> None:
    """The steps t ... stop of a sample of coupled neurons. Scratch: `looped` (P,), and `listed` with room for all."""
    steps, padded = scan.words.shape[1], scan.padded
    if stop == steps:
        for i in range(padded):
            looped[i] = sums[b * padded + i] = np.float32(0)
    for step in range(stop - 1, t - 1, -1):
        if step + 1 < steps:  # a neuron outside of its surrogate's reach takes no error
            count = list_near(b, step, scan, listed)
            multiply_rows(scan.recurrent, padded, listed, count, trace, (b * steps + step + 1) * padded, looped)
        for offset in range(0, padded, 64):
            coupled_back(min(64, padded - offset), b, step, offset, scan, looped, trace, sums)


@jit
def stbp_backward(
    scan: Scan, trace: Floats, sums: Floats, looped: Floats, listed: Times, below: Below, turn: Turn
) -> None:
    """The samples of a turn: `reference.stbp_scan_backward` to `trace`, its sums over time, and the errors below.

    All goes SQUARE steps at a time, which stay in the nearest cache. `sums` (B * P,) is written. Scratch as in
    `coupled_tile`.
    """
    steps = scan.words.shape[1]
    while True:
        b = take(turn)
        if b == NONE:
            return
        for t in range((steps - 1) // SQUARE * SQUARE, -1, -SQUARE):
            stop = min(steps, t + SQUARE)
            if scan.recurrent.shape[0]:
                coupled_tile(b, t, stop, scan, trace, sums, looped, listed)
            else:
                for offset in range(0, scan.padded, 64):
                    block_back(min(64, scan.padded - offset), b, offset, t, stop, scan, trace, sums)
            if below.inputs:
                send_tile(b, t, stop, scan, trace, below)


# ---- to the layer below ---------------------------------------------------------------------------------------------


@part
def list_inputs(b: int, t: int, stop: int, below: Below) -> int:
    """List the inputs that get errors in any of the steps t ... stop; returns their number."""
    near, count = below.near, 0
    for w in range((below.inputs + 63) // 64):
        bits = valid_bits(below.inputs - 64 * w)
        if near.shape[0]:
            any_ = np.uint64(0)
            for step in range(t, stop):
                any_ |= near[b, step, w]
            bits &= any_
        count = list_bits(bits, 64 * w, below.listed, count)
    return count


@part
def gather_columns(trace: Floats, place: int, neurons: int, padded: int, below: Below) -> int:
    """Write the SQUARE rows from trace[place] on to `columns`; list the neurons with an error, return their number."""
    columns, count = below.columns, 0
    for offset in range(0, padded, SQUARE):
        turn_square(trace, place + offset, padded, columns, offset * SQUARE, SQUARE)
    for i in range(neurons):
        errors = load(columns, i * SQUARE, zeros16())
        below.busy[count] = i
        count += (above(errors, zeros16()) | above(zeros16(), errors)) != np.uint64(0)
    return count


@part
def add_eight(k: int, last: int, busy: int, padded: int, below: Below) -> None:
    """Sum of weight times error over the busy neurons, in SQUARE steps at once, for the inputs listed[k] and on."""
    rows, listed, columns, sums = below.rows, below.listed, below.columns, below.sums
    j0, j1, j2, j3 = listed[k], listed[min(k + 1, last)], listed[min(k + 2, last)], listed[min(k + 3, last)]
    j4, j5, j6 = listed[min(k + 4, last)], listed[min(k + 5, last)], listed[min(k + 6, last)]
    j7 = listed[min(k + 7, last)]
    at0, at1, at2, at3 = np.int64(j0) * padded, np.int64(j1) * padded, np.int64(j2) * padded, np.int64(j3) * padded
    at4, at5, at6, at7 = np.int64(j4) * padded, np.int64(j5) * padded, np.int64(j6) * padded, np.int64(j7) * padded
    zero = zeros16()
    s0, s1, s2, s3, s4, s5, s6, s7 = zero, zero, zero, zero, zero, zero, zero, zero
    for n in range(busy):
        i = np.int64(below.busy[n])
        errors = load(columns, i * SQUARE, zero)
        s0 = s0 + errors * load_one(rows, at0 + i, zero)
        s1 = s1 + errors * load_one(rows, at1 + i, zero)
        s2 = s2 + errors * load_one(rows, at2 + i, zero)
        s3 = s3 + errors * load_one(rows, at3 + i, zero)
        s4 = s4 + errors * load_one(rows, at4 + i, zero)
        s5 = s5 + errors * load_one(rows, at5 + i, zero)
        s6 = s6 + errors * load_one(rows, at6 + i, zero)
        s7 = s7 + errors * load_one(rows, at7 + i, zero)
    store(sums, np.int64(j0) * SQUARE, s0)
    store(sums, np.int64(j1) * SQUARE, s1)
    store(sums, np.int64(j2) * SQUARE, s2)
    store(sums, np.int64(j3) * SQUARE, s3)
    store(sums, np.int64(j4) * SQUARE, s4)
    store(sums, np.int64(j5) * SQUARE, s5)
    store(sums, np.int64(j6) * SQUARE, s6)
    store(sums, np.int64(j7) * SQUARE, s7)


@part
def write_errors(b: int, t: int, stop: int, steps: int, below: Below) -> None:
    """Write the sums of the steps t ... stop to `error`, and 0 for inputs that get none."""
    near, inputs, square = below.near, below.inputs, below.square
    for j in range(0, inputs, SQUARE):
        turn_square(below.sums, j * SQUARE, SQUARE, square, 0, SQUARE)
        for step in range(t, stop):
            value = load(square, (step - t) * SQUARE, zeros16())
            if near.shape[0]:
                value = choose(near[b, step, j >> 6] >> np.uint64(j & 63), value, zeros16())
            place = (b * steps + step) * inputs + j
            if inputs - j >= SQUARE:
                store(below.error, place, value)
            else:
                store_some(below.error, place, valid_bits(inputs - j), value)


@part
def send_tile(b: int, t: int, stop: int, scan: Scan, trace: Floats, below: Below) -> None:
    """Send the errors of the steps t ... stop of sample b to its inputs."""
    steps, padded = scan.words.shape[1], scan.padded
    count = list_inputs(b, t, stop, below)
    if count:
        busy = gather_columns(trace, (b * steps + t) * padded, scan.neurons, padded, below)
        for k in range(0, count, EIGHT):
            add_eight(k, count - 1, busy, padded, below)
    write_errors(b, t, stop, steps, below)
