"""The loops of STBP."""

from __future__ import annotations

from typing import Any

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Times, Words, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import above, choose, load, splat, store, zeros16, zeros32, zeros64
from snnrun.kernels.cpu.forward_loops import add_row_pairs, add_rows
from snnrun.kernels.cpu.spike_loops import list_spikes, valid_bits

# How a surrogate derivative is computed: here, or given for every step and neuron.
RECTANGLE, POLYNOMIAL, GIVEN = 0, 1, 2
# Inputs that a thread adds up the gradients of at a time.
INPUTS = 64


@part
def stbp_step(
    like: Any,
    b: int,
    t: int,
    offset: int,
    before: np.uint64,
    valid: np.uint64,
    rows: Floats,
    bias: Floats,
    recurrent: Floats,
    constants: Floats,
    strict: bool,
    inputs: Times,
    spikes: int,
    own: Times,
    looped: int,
    membrane: Floats,
    counts: Floats,
) -> Any:
    """Advance a block by one step; `before` has the bits of those that fired in the last. Returns those that fire."""
    padded, steps = counts.shape[1], membrane.shape[0] // counts.size
    place = (b * steps + t) * padded + offset
    u = load(bias, offset, like) + add_rows(like, rows, padded, offset, inputs, 0, spikes)
    if looped:
        u = u + add_rows(like, recurrent, padded, offset, own, 0, looped)
    if t:
        decay = choose(before, splat(constants[2], like), splat(constants[1], like))
        u = u + decay * load(membrane, place - padded, like)
    store(membrane, place, u)
    v_th = splat(constants[0], like)
    fired = (above(u, v_th) if strict else ~above(v_th, u)) & valid
    if fired:
        n = load(counts, b * padded + offset, like)
        store(counts, b * padded + offset, choose(fired, n + splat(np.float32(1), like), n))
    return fired


@jit
def stbp_forward(
    words_in: Words,
    rows: Floats,
    bias: Floats,
    recurrent: Floats,
    constants: Floats,
    strict: bool,
    neurons: int,
    words: Words,
    counts: Floats,
    membrane: Floats,
    inputs: Times,
    own: Times,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.stbp_forward`.

    `rows` (I * P,), `bias` (P,), `recurrent` rows by pre-neuron (N * P,) or empty; `constants`: threshold, decay, decay
    after a spike; `words` (B, T, W) and `counts` (B, P) come in as zeros, `membrane` (B * T * P,) is written.
    """
    padded = counts.shape[1]
    looped = 0
    while True:
        b = take(turn)
        if b == NONE:
            return
        for t in range(words_in.shape[1]):
            spikes = list_spikes(words_in, b, t, inputs)
            if recurrent.shape[0]:
                looped = list_spikes(words, b, t - 1, own) if t else 0
            for offset in range(0, padded, 64):
                w = offset // 64
                before = words[b, t - 1, w] if t else np.uint64(0)
                valid = valid_bits(neurons - offset)
                if padded - offset >= 64:
                    words[b, t, w] = stbp_step(
                        zeros64(), b, t, offset, before, valid, rows, bias, recurrent, constants, strict,
                        inputs, spikes, own, looped, membrane, counts,
                    )  # fmt: skip
                elif padded - offset == 32:
                    words[b, t, w] = stbp_step(
                        zeros32(), b, t, offset, before, valid, rows, bias, recurrent, constants, strict,
                        inputs, spikes, own, looped, membrane, counts,
                    )  # fmt: skip
                else:
                    words[b, t, w] = stbp_step(
                        zeros16(), b, t, offset, before, valid, rows, bias, recurrent, constants, strict,
                        inputs, spikes, own, looped, membrane, counts,
                    )  # fmt: skip


@part
def block_backward(
    like: Any,
    b: int,
    offset: int,
    words: Words,
    grad_spikes: Floats,
    membrane: Floats,
    given: Floats,
    surrogate: int,
    constants: Floats,
    temporal: bool,
    grad_u: Floats,
    padded: int,
) -> None:
    """One block of `stbp_scan_backward`."""
    steps, w = words.shape[1], offset // 64
    v_th, scale, reach = splat(constants[0], like), splat(constants[5], like), splat(constants[6], like)
    ahead = like
    for t in range(steps - 1, -1, -1):
        place = (b * steps + t) * padded + offset
        fired = words[b, t, w]
        u, grad = load(membrane, place, like), load(grad_spikes, place, like)
        if surrogate == GIVEN:
            h = load(given, place, like)
        else:
            distance = u - v_th
            distance = choose(above(distance, like), distance, like - distance)
            h = scale if surrogate == RECTANGLE else scale * (reach - distance)
            h = choose(above(reach, distance), h, like)
        if temporal:
            grad = grad + ahead * u * choose(fired, splat(constants[4], like), splat(constants[3], like))
            decay = choose(fired, splat(constants[2], like), splat(constants[1], like))
            ahead = grad * h + ahead * decay
        else:
            ahead = grad * h
        store(grad_u, place, ahead)


@jit
def stbp_scan_backward(
    words: Words,
    grad_spikes: Floats,
    membrane: Floats,
    given: Floats,
    surrogate: int,
    constants: Floats,
    temporal: bool,
    grad_u: Floats,
    padded: int,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.stbp_scan_backward` without recurrent synapses, arrays (B * T * P,).

    `constants`: threshold, decay, decay after a spike, slope of the decay by the spike where there is none and where
    there is one, and height and reach of the surrogate derivative.
    """
    while True:
        b = take(turn)
        if b == NONE:
            return
        for offset in range(0, padded, 64):
            if padded - offset >= 64:
                block_backward(
                    zeros64(), b, offset, words, grad_spikes, membrane, given, surrogate, constants, temporal, grad_u,
                    padded,
                )  # fmt: skip
            elif padded - offset == 32:
                block_backward(
                    zeros32(), b, offset, words, grad_spikes, membrane, given, surrogate, constants, temporal, grad_u,
                    padded,
                )  # fmt: skip
            else:
                block_backward(
                    zeros16(), b, offset, words, grad_spikes, membrane, given, surrogate, constants, temporal, grad_u,
                    padded,
                )  # fmt: skip


@part
def block_gradient(
    like: Any,
    trace: Floats,
    base: int,
    steps: int,
    times: Times,
    first: Indices,
    padded: int,
    start: int,
    stop: int,
    gradient: Floats,
    offset: int,
) -> None:
    """One block of `weight_gradient`; `trace` holds row t of sample b at base + (b * steps + t) * padded."""
    for j in range(start, stop):
        sum_ = like
        for b in range(first.shape[0]):
            place = base + b * steps * padded
            sum_ = sum_ + add_rows(like, trace, padded, place, times, first[b, j], first[b, j + 1])
        store(gradient, j * padded + offset, sum_)


@part
def pair_gradient(
    trace: Floats,
    base: int,
    steps: int,
    times: Times,
    first: Indices,
    padded: int,
    start: int,
    stop: int,
    gradient: Floats,
    offset: int,
) -> None:
    """`block_gradient` for a block of 64 and the one after it."""
    for j in range(start, stop):
        sum_, after = zeros64(), zeros64()
        for b in range(first.shape[0]):
            place = base + b * steps * padded
            x, y = add_row_pairs(zeros64(), trace, padded, place, times, first[b, j], first[b, j + 1])
            sum_, after = sum_ + x, after + y
        store(gradient, j * padded + offset, sum_)
        store(gradient, j * padded + offset + 64, after)


@jit
def weight_gradient(
    trace: Floats,
    delay: int,
    steps: int,
    times: Times,
    first: Indices,
    padded: int,
    gradient: Floats,
    turn: Turn,
) -> None:
    """Sum over samples and steps of trace(t + delay) spikes(t), for the strips of a turn, INPUTS each.

    `trace` (B * T * P,); `times`, `first` (B, I + 1) of the spikes; their rows of `gradient` (I * P,) are written.
    A sum stays in registers until it is whole.
    """
    while True:
        k = take(turn)
        if k == NONE:
            return
        start, stop = k * INPUTS, min((k + 1) * INPUTS, first.shape[1] - 1)
        offset = 0
        while padded - offset >= 128:
            base = delay * padded + offset
            pair_gradient(trace, base, steps, times, first, padded, start, stop, gradient, offset)
            offset += 128
        base = delay * padded + offset
        if padded - offset >= 64:
            block_gradient(zeros64(), trace, base, steps, times, first, padded, start, stop, gradient, offset)
            offset += 64
            base += 64
        if padded - offset == 32:
            block_gradient(zeros32(), trace, base, steps, times, first, padded, start, stop, gradient, offset)
        elif padded - offset == 16:
            block_gradient(zeros16(), trace, base, steps, times, first, padded, start, stop, gradient, offset)
