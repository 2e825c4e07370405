"""The loops of the integrate-and-fire neurons of Lee et al. 2016, over weighted spikes (see `drives`)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats, Words, in_64_32_or_16, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import above, choose, count_bits, load, lowest_bit, splat, store
from snnrun.kernels.cpu.constants import WtaConstants
from snnrun.kernels.cpu.spike_loops import valid_bits


class State(NamedTuple):
    """A sample's neurons, (P,) each: membranes, and steps since the last spike."""

    v: Floats
    since: Floats


def room_for_state(padded: int) -> State:
    """Room for P neurons."""
    return State(*np.empty((2, padded), np.float32))


@in_64_32_or_16
@part
def wta_step(
    like: Any,
    place: int,
    offset: int,
    neurons: int,
    threshold: Floats,
    constants: WtaConstants,
    state: State,
    drive: Floats,
) -> Any:
    """Advance a block by one step, before any inhibition; returns the bits of those that fire."""
    th, input_ = load(threshold, offset, like), load(drive, place + offset, like)
    one = splat(np.float32(1), like)
    if constants.refractory:
        since = load(state.since, offset, like)
        share = since * splat(constants.per_t_ref, like)
        share = choose(above(share, one), one, share)
        input_ = share * share * input_
    v = splat(constants.decay, like) * load(state.v, offset, like) + input_
    v = choose(above(like - th, v), like - th, v)
    fired = ~above(th, v) & valid_bits(neurons - offset)
    store(state.v, offset, choose(fired, v - th, v))
    if constants.refractory:
        store(state.since, offset, choose(fired, one, since + one))
    return fired


@in_64_32_or_16
@part
def inhibit(
    like: Any, offset: int, fired: np.uint64, number: int, threshold: Floats, constants: WtaConstants, state: State
) -> None:
    """Lower the membranes of a block for the `number` neurons of the layer that fire, each by the others alone."""
    th = load(threshold, offset, like)
    others = splat(np.float32(number), like) - choose(fired, splat(np.float32(1), like), like)
    v = load(state.v, offset, like) - splat(constants.inhibition, like) * th * others
    store(state.v, offset, choose(above(like - th, v), like - th, v))


@in_64_32_or_16
@part
def keep_trace(
    like: Any, place: int, fired: np.uint64, constants: WtaConstants, counts: Floats, traces: Floats
) -> None:
    """Count the spikes of a block and keep their trace."""
    one = choose(fired, splat(np.float32(1), like), like)
    store(counts, place, load(counts, place, like) + one)
    store(traces, place, splat(constants.decay, like) * load(traces, place, like) + one)


@jit
def wta_scan(
    neurons: int,
    threshold: Floats,
    constants: WtaConstants,
    state: State,
    drive: Floats,
    words: Words,
    counts: Floats,
    traces: Floats,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.wta_scan`, with counts and traces.

    `threshold` (P,); `drive` (B * T * P,) has the weighted spikes. `counts` and `traces` (B, P) must be 0. Scratch:
    `state`.
    """
    padded, steps = counts.shape[1], words.shape[1]
    while True:
        b = take(turn)
        if b == NONE:
            return
        for i in range(padded):
            state.v[i], state.since[i] = np.float32(0), np.float32(1e9)
        for t in range(steps):
            place, number = (b * steps + t) * padded, 0
            for offset in range(0, padded, 64):
                width = min(64, padded - offset)
                fired = wta_step(width, place, offset, neurons, threshold, constants, state, drive)
                words[b, t, offset // 64] = fired
                number += count_bits(fired)
                keep_trace(width, b * padded + offset, fired, constants, counts, traces)
            if number and constants.inhibition != np.float32(0):
                for offset in range(0, padded, 64):
                    fired = words[b, t, offset // 64]
                    inhibit(min(64, padded - offset), offset, fired, number, threshold, constants, state)


@jit
def trace(words: Words, weights: Floats, traces: Floats, turn: Turn) -> None:
    """The samples of a turn of `reference.trace`: sum of weights[t] over the spikes; `traces` (B, N) must be 0."""
    while True:
        b = take(turn)
        if b == NONE:
            return
        for t in range(words.shape[1]):
            for w in range(words.shape[2]):
                rest = words[b, t, w]
                while rest != np.uint64(0):
                    traces[b, 64 * w + lowest_bit(rest)] += weights[t]
                    rest &= rest - np.uint64(1)
