"""The loops of `reference.spsp_backward` and `reference.spsp_activation`: sums over pairs of neurons."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Times, Words, in_64_32_or_16, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import expand, lanes, load, store, total, zeros16, zeros64
from snnrun.kernels.cpu.active_loops import LANES, Active, close_up, idle, room_for_active, spread, width_of
from snnrun.kernels.cpu.arrays import aligned, aligned_zeros
from snnrun.kernels.cpu.constants import RuleConstants
from snnrun.kernels.cpu.forward_loops import add_row_pairs, add_rows
from snnrun.kernels.cpu.readout_loops import Readout, read_block, room_for_readout
from snnrun.kernels.cpu.spike_loops import ROOM, list_spikes, sort_sample

# A thread adds up the parts of so many floats at a time, so that they stay in the nearest cache.
STRIP = 4096


class Errors(NamedTuple):
    """For each pair of neurons the gradient gets the S-PSP times `gain`; `below` gets it times `credit` and weight.

    `gain` and `credit` are (B, N); `below` (B, I) must be 0. If no error goes below, `credit` and `below` are (B, 0).
    If nobody trains the weights, `gain` is (B, 0), and there is no gradient. To `gain`, `slope` (B, N) times the
    activation is added first; (B, 0) for nothing.
    """

    gain: Floats
    slope: Floats
    credit: Floats
    below: Floats


class Backward(NamedTuple):
    """Room for the backward pass of a sample, with a block of neurons at a time and all inputs.

    `readout` is that of a block, and so is `e`, for one input at a time (64,), or for all (64 I,) where gains have a
    slope; then `activation` (P,) is 0 between blocks. `active` has the neurons that fire. `times` and `first` (I + 1,)
    have the inputs' spikes from `sort_sample`; `turned` is its scratch.
    """

    readout: Readout
    e: Floats
    activation: Floats
    active: Active
    times: Times
    first: Indices
    turned: Words


def room_for_backward(rule: RuleConstants, steps: int, words: int, inputs: int, slope: bool) -> Backward:
    """Room for neurons of so many words and so many inputs, and for gains with or without a slope."""
    return Backward(
        readout=room_for_readout(rule, steps, 64),
        e=aligned(64 * inputs if slope else 64),
        activation=aligned_zeros(64 * words if slope else 0),
        active=room_for_active(steps, words),
        times=np.empty(inputs * steps + ROOM, np.uint16),  # only as many as spikes are touched
        first=np.empty(inputs + 1, np.int32),
        turned=np.empty(steps + 63, np.uint64),
    )


@in_64_32_or_16
@part
def add_block(
    like: Any,
    b: int,
    errors: Errors,
    rows: Floats,
    padded: int,
    room: Backward,
    groups: tuple[int, int],
    low: int,
    high: int,
    gradient: Floats,
) -> None:
    """Compute e_.j of a block of active neurons for each input j of low ... high; add it to gradient and error.

    Gains with a slope are known once all inputs have been seen, so e_.j is kept until then.
    """
    has_slope, has_credit = errors.slope.shape[1] > 0, errors.credit.shape[1] > 0
    has_gain = errors.gain.shape[1] > 0 and not has_slope
    active, e, first, stride = room.active, room.e, room.first, lanes(like)
    at, step = 0, stride if has_slope else 0
    for j in range(low, high):
        if first[j] == first[j + 1]:
            continue
        store(e, at, add_rows(like, room.readout.values, stride, 0, room.times, first[j], first[j + 1]))
        below = zeros16()
        for group in range(groups[0], groups[1]):
            own, place = b * padded + LANES * group, j * padded + LANES * group
            x = expand(e, at + active.begin[group], active.lanes[group], zeros16())
            if has_gain:
                gain = load(errors.gain, own, zeros16())
                store(gradient, place, load(gradient, place, zeros16()) + gain * x)
            if has_slope:
                a = load(room.activation, LANES * group, zeros16()) + load(rows, place, zeros16()) * x
                store(room.activation, LANES * group, a)
            if has_credit:
                below = below + load(errors.credit, own, zeros16()) * load(rows, place, zeros16()) * x
        if has_credit:
            errors.below[b, j] += total(below)
        at += step
    if has_slope:
        add_activation(b, errors, padded, room, groups)
        add_kept(b, errors.gain, padded, room, groups, stride, low, high, gradient)


@part
def add_activation(b: int, errors: Errors, padded: int, room: Backward, groups: tuple[int, int]) -> None:
    """Add slope times activation to the gains of a block, and leave an activation of 0."""
    for group in range(groups[0], groups[1]):
        own, a = b * padded + LANES * group, load(room.activation, LANES * group, zeros16())
        store(errors.gain, own, load(errors.gain, own, zeros16()) + load(errors.slope, own, zeros16()) * a)
        store(room.activation, LANES * group, zeros16())


@part
def add_kept(
    b: int,
    gains: Floats,
    padded: int,
    room: Backward,
    groups: tuple[int, int],
    stride: int,
    low: int,
    high: int,
    gradient: Floats,
) -> None:
    """Add the gradient of a block from e_.j of all inputs, which `room` has kept."""
    active, at = room.active, 0
    for j in range(low, high):
        if room.first[j] == room.first[j + 1]:
            continue
        for group in range(groups[0], groups[1]):
            gain, place = load(gains, b * padded + LANES * group, zeros16()), j * padded + LANES * group
            x = expand(room.e, at + active.begin[group], active.lanes[group], zeros16())
            store(gradient, place, load(gradient, place, zeros16()) + gain * x)
        at += stride


@jit
def spsp_backward(
    words_in: Words,
    words: Words,
    errors: Errors,
    rows: Floats,
    padded: int,
    room: Backward,
    pieces: Indices,
    first: Floats,
    others: Floats,
    turn: Turn,
) -> None:
    """The pieces of a turn of `reference.spsp_backward`.

    A piece of `pieces` (K, 5) has the number of its part, the first word of inputs and the one after its last, and the
    first sample and the one after its last. It has all words where gains have a slope. Samples are added in order.
    `errors` are of P neurons; gains with a slope are written there. The gradients of the parts are written to `first`
    (I * P,) and `others` (parts - 1, I * P); these are empty if there is no gain.
    """
    while True:
        k = take(turn)
        if k == NONE:
            return
        number, low, high = pieces[k, 0], pieces[k, 1], pieces[k, 2]
        gradient = others[number - 1] if number else first
        inputs = room.first.shape[0] - 1
        begin, end = 64 * low, min(64 * high, inputs)
        if errors.gain.shape[1]:
            for place in range(begin * padded, end * padded):
                gradient[place] = np.float32(0)
        for b in range(pieces[k, 3], pieces[k, 4]):
            if idle(errors.gain, b) and idle(errors.slope, b) and idle(errors.credit, b):
                continue
            sort_sample(words_in, b, low, high, room.times, room.first, room.turned, inputs, 0)
            count = close_up(words, b, room.active)
            for offset in range(0, count, 64):
                groups = spread(room.active, offset, min(offset + 64, count))
                width = width_of(count - offset)
                read_block(width, room.readout, room.active.words, 0, offset // 64, 0, width)
                add_block(width, b, errors, rows, padded, room, groups, begin, end, gradient)


@jit
def spsp_activation(
    words_in: Words,
    words: Words,
    rows: Floats,
    padded: int,
    readout: Readout,
    inputs: Times,
    activation: Floats,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.spsp_activation`; `readout` of P neurons; `activation` (B, P) must be 0."""
    steps = words_in.shape[1]
    while True:
        b = take(turn)
        if b == NONE:
            return
        for offset in range(0, padded, 64):
            read_block(min(64, padded - offset), readout, words, b, offset // 64, offset, padded)
        for t in range(steps):
            count = list_spikes(words_in, b, t, inputs)
            if count == 0:
                continue
            for offset in range(0, padded, 16):
                drive = add_rows(zeros16(), rows, padded, offset, inputs, 0, count)
                place = b * padded + offset
                sum_so_far = load(activation, place, zeros16())
                store(activation, place, sum_so_far + drive * load(readout.values, t * padded + offset, zeros16()))


@jit
def add_parts(total: Floats, others: Floats, turn: Turn) -> None:
    """Add the rows of `others` (K, M) to `total` (M,) in order, for the strips of a turn, of STRIP floats each."""
    while True:
        k = take(turn)
        if k == NONE:
            return
        for row in range(others.shape[0]):
            for place in range(k * STRIP, min((k + 1) * STRIP, total.shape[0])):
                total[place] += others[row, place]


@in_64_32_or_16
@part
def add_to_block(like: Any, rows: Floats, offset: int, index: Times, start: int, stop: int, total: Floats) -> None:
    """One block of `add_random_rows`."""
    added = add_rows(like, rows, total.shape[0], offset, index, start, stop)
    store(total, offset, load(total, offset, like) + added)


@jit
def add_random_rows(rows: Floats, index: Times, together: int, total: Floats) -> None:
    """Add the rows of `index` to `total` (P,), `together` of them at a time, in the blocks of `coupled_forward`."""
    padded = total.shape[0]
    pairs = padded // 128 * 128
    for start in range(0, index.shape[0] - together + 1, together):
        for offset in range(0, pairs, 128):
            a, b = add_row_pairs(zeros64(), rows, padded, offset, index, start, start + together)
            store(total, offset, load(total, offset, zeros64()) + a)
            store(total, offset + 64, load(total, offset + 64, zeros64()) + b)
        for offset in range(pairs, padded, 64):
            add_to_block(min(64, padded - offset), rows, offset, index, start, start + together, total)
