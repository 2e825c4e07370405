"""The loop that adds up the gradient of a dense layer's weights from the trace of its errors and its input spikes.

It goes through the samples and, in each, through the inputs that fire: the part of a sample's trace for some neurons
stays in the nearest cache, and the gradients of these neurons in the next.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats, Indices, in_64_32_or_16, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import load, store, zeros64
from snnrun.kernels.cpu.usual_loops import Exceptions

# The inputs of so many samples are listed at a time. A strip of inputs has at most INPUTS, for the cache.
SAMPLES, INPUTS = 32, 512


class Errors(NamedTuple):
    """A `trace` whose row t of sample b is at (b * steps + t) * P, and its `sums` over time (B * P,).

    Spikes of step t meet row t + `delay`. If inputs may usually fire, the delay is 0.
    """

    trace: Floats
    sums: Floats
    steps: int
    delay: int


class Busy(NamedTuple):
    """The inputs of a strip that fire in each of SAMPLES samples, see `list_inputs`."""

    inputs: Indices
    begin: Indices


def room_for_busy(inputs: int) -> Busy:
    """Room for a strip of so many inputs."""
    return Busy(np.empty(inputs * SAMPLES + 1, np.int32), np.empty(2 * SAMPLES + 1, np.int32))


@part
def list_inputs(exceptions: Exceptions, low: int, high: int, start: int, stop: int, busy: Busy) -> None:
    """List the inputs low ... high that fire but not usually in sample start + k, from begin[2 k] on.

    Those that usually fire follow from begin[2 k + 1] on.
    """
    first, usual, count = exceptions.first, exceptions.usual, 0
    for b in range(start, stop):
        busy.begin[2 * (b - start)] = count
        for j in range(low, high):
            often = usual[b, j >> 6] >> np.uint64(j & 63) & np.uint64(1)
            busy.inputs[count] = j
            count += first[b, j + 1] > first[b, j] and often == np.uint64(0)
        busy.begin[2 * (b - start) + 1] = count
        for j in range(low, high):
            often = usual[b, j >> 6] >> np.uint64(j & 63) & np.uint64(1)
            busy.inputs[count] = j
            count += often != np.uint64(0)
    busy.begin[2 * (stop - start)] = count


@in_64_32_or_16
@part
def block_gradient(
    like: Any, b: int, k: int, errors: Errors, exceptions: Exceptions, padded: int, busy: Busy, gradient: Floats,
    offset: int,
) -> None:  # fmt: skip
    """Add to one block of `weight_gradient` what sample b gives, the k-th that is listed."""
    trace, times, first = errors.trace, exceptions.times, exceptions.first
    base = (b * errors.steps + errors.delay) * padded + offset
    for e in range(busy.begin[2 * k], busy.begin[2 * k + 1]):
        j = np.int64(busy.inputs[e])
        sum_ = load(gradient, j * padded + offset, like)
        for i in range(first[b, j], first[b, j + 1]):
            sum_ = sum_ + load(trace, base + np.int64(times[i]) * padded, like)
        store(gradient, j * padded + offset, sum_)
    for e in range(busy.begin[2 * k + 1], busy.begin[2 * k + 2]):
        j = np.int64(busy.inputs[e])
        sum_ = load(gradient, j * padded + offset, like) + load(errors.sums, b * padded + offset, like)
        for i in range(first[b, j], first[b, j + 1]):
            sum_ = sum_ - load(trace, base + np.int64(times[i]) * padded, like)
        store(gradient, j * padded + offset, sum_)


@part
def pair_gradient(
    b: int, k: int, errors: Errors, exceptions: Exceptions, padded: int, busy: Busy, gradient: Floats, offset: int
) -> None:
    """`block_gradient` for a block of 64 and the one after it."""
    trace, sums, times, first = errors.trace, errors.sums, exceptions.times, exceptions.first
    base, all_ = (b * errors.steps + errors.delay) * padded + offset, b * padded + offset
    for e in range(busy.begin[2 * k], busy.begin[2 * k + 1]):
        j = np.int64(busy.inputs[e])
        place = j * padded + offset
        sum_, after = load(gradient, place, zeros64()), load(gradient, place + 64, zeros64())
        for i in range(first[b, j], first[b, j + 1]):
            row = base + np.int64(times[i]) * padded
            sum_, after = sum_ + load(trace, row, zeros64()), after + load(trace, row + 64, zeros64())
        store(gradient, place, sum_)
        store(gradient, place + 64, after)
    for e in range(busy.begin[2 * k + 1], busy.begin[2 * k + 2]):
        j = np.int64(busy.inputs[e])
        place = j * padded + offset
        sum_ = load(gradient, place, zeros64()) + load(sums, all_, zeros64())
        after = load(gradient, place + 64, zeros64()) + load(sums, all_ + 64, zeros64())
        for i in range(first[b, j], first[b, j + 1]):
            row = base + np.int64(times[i]) * padded
            sum_, after = sum_ - load(trace, row, zeros64()), after - load(trace, row + 64, zeros64())
        store(gradient, place, sum_)
        store(gradient, place + 64, after)


@jit
def weight_gradient(
    errors: Errors, exceptions: Exceptions, padded: int, strips: Indices, gradient: Floats, busy: Busy, turn: Turn
) -> None:
    """Add the sum over samples and steps of trace(t + delay) spikes(t) to `gradient` (I * P,).

    The items of a turn are strips of inputs, the k-th from strips[k] to strips[k + 1]. `busy` is scratch.
    """
    batch, pairs = exceptions.first.shape[0], padded // 128 * 128
    while True:
        strip = take(turn)
        if strip == NONE:
            return
        for start in range(0, batch, SAMPLES):
            stop = min(start + SAMPLES, batch)
            list_inputs(exceptions, strips[strip], strips[strip + 1], start, stop, busy)
            for offset in range(0, pairs, 128):
                for b in range(start, stop):
                    pair_gradient(b, b - start, errors, exceptions, padded, busy, gradient, offset)
            for offset in range(pairs, padded, 64):
                for b in range(start, stop):
                    width = min(64, padded - offset)
                    block_gradient(width, b, b - start, errors, exceptions, padded, busy, gradient, offset)
