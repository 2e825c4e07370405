"""The loops of SLAYER's spike response neurons, over weighted spikes that are summed already (see `drives`)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Times, Words, in_64_32_or_16, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import above, choose, load, splat, store
from snnrun.kernels.cpu.constants import SrmConstants
from snnrun.kernels.cpu.forward_loops import add_rows
from snnrun.kernels.cpu.spike_loops import Listed, list_sparse, list_spikes, valid_bits

# exp(-y) for y in [0, 1] by its Taylor series about 0.5, exact to 1e-7; its sixteenth power is exp(-x) up to FAR.
FAR, POWERS = np.float32(16), 4
SERIES = tuple(np.float32(0.6065306597126334 * (-1.0) ** k / np.prod(np.arange(1.0, k + 1))) for k in range(8))


class State(NamedTuple):
    """The filters of a sample's neurons, (P,) each: two of the response kernel, two of the refractory kernel."""

    p: Floats
    q: Floats
    refractory: Floats
    delayed: Floats


def room_for_state(padded: int) -> State:
    """Room for P neurons."""
    return State(*np.empty((4, padded), np.float32))


@part
def decay_exponentially(x: Any, like: Any) -> Any:
    """exp(-x) for x >= 0; beyond FAR its value there."""
    far = splat(FAR, like)
    h = choose(above(x, far), far, x) * splat(np.float32(1 / 16), like) - splat(np.float32(0.5), like)
    y = splat(SERIES[7], like)
    for k in (6, 5, 4, 3, 2, 1, 0):
        y = y * h + splat(SERIES[k], like)
    for _ in range(POWERS):
        y = y * y
    return y


@in_64_32_or_16
@part
def srm_step(
    like: Any,
    b: int,
    t: int,
    offset: int,
    neurons: int,
    loop: Floats,
    own: Times,
    looped: int,
    constants: SrmConstants,
    state: State,
    words: Words,
    counts: Floats,
    membrane: Floats,
) -> None:
    """Advance a block by one step; own[:looped] fired in the step before. `membrane` holds the weighted spikes."""
    padded, steps = counts.shape[1], words.shape[1]
    place = (b * steps + t) * padded + offset
    p, q = load(state.p, offset, like), load(state.q, offset, like)
    decay_s, rise = splat(constants.decay_s, like), splat(constants.rise, like)
    if looped:
        p = p + rise * add_rows(like, loop, padded, offset, own, 0, looped)
    q = decay_s * (q + p)
    store(state.q, offset, q)
    store(state.p, offset, decay_s * p + rise * load(membrane, place, like))
    refractory, decay_r = load(state.refractory, offset, like), splat(constants.decay_r, like)
    if constants.alpha:
        delayed = decay_r * (load(state.delayed, offset, like) + refractory)
        store(state.delayed, offset, delayed)
        refractory = decay_r * refractory
        u = q + delayed
    else:
        refractory = decay_r * refractory
        u = q + refractory
    store(membrane, place, u)
    fired = ~above(splat(constants.v_th, like), u) & valid_bits(neurons - offset)
    if fired:
        refractory = choose(fired, refractory + splat(constants.refractoriness, like), refractory)
        n = load(counts, b * padded + offset, like)
        store(counts, b * padded + offset, choose(fired, n + splat(np.float32(1), like), n))
    store(state.refractory, offset, refractory)
    words[b, t, offset // 64] = fired


@jit
def srm_scan(
    neurons: int,
    loop: Floats,
    constants: SrmConstants,
    state: State,
    words: Words,
    counts: Floats,
    membrane: Floats,
    own: Times,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.srm_scan`.

    `loop` (N * P,) has the recurrent weights by pre-neuron; it is empty if there are none. `counts` (B, P) must be 0.
    `membrane` (B * T * P,) holds the weighted spikes and gets the membranes. Scratch: `state`, `own` with room for a
    step's spikes.
    """
    padded, looped = counts.shape[1], 0
    while True:
        b = take(turn)
        if b == NONE:
            return
        for array in (state.p, state.q, state.refractory, state.delayed):
            for i in range(padded):
                array[i] = np.float32(0)
        for t in range(words.shape[1]):
            if loop.shape[0] and t:
                looped = list_spikes(words, b, t - 1, own)
            for offset in range(0, padded, 64):
                srm_step(
                    min(64, padded - offset), b, t, offset, neurons, loop, own, looped, constants, state, words,
                    counts, membrane,
                )  # fmt: skip
            looped = 0


@in_64_32_or_16
@part
def block_backward(
    like: Any,
    place: int,
    offset: int,
    loop: Floats,
    constants: SrmConstants,
    state: State,
    grad_spikes: Floats,
    membrane: Floats,
    z: Floats,
    padded: int,
) -> None:
    """One block and step of `srm_scan_backward`, after `state.q` and z of this step are known for all neurons."""
    grad = load(grad_spikes, place + offset, like)
    for n in range(loop.shape[0] // padded):
        grad = grad + splat(z[place + n], like) * load(loop, n * padded + offset, like)
    distance = (load(membrane, place + offset, like) - splat(constants.v_th, like)) * splat(constants.steepness, like)
    distance = choose(above(distance, like), distance, like - distance)
    delta = splat(constants.height, like) * decay_exponentially(distance, like) * grad
    store(state.p, offset, splat(constants.decay_s, like) * load(state.p, offset, like) + delta)


@in_64_32_or_16
@part
def block_correlate(like: Any, place: int, offset: int, constants: SrmConstants, state: State, z: Floats) -> None:
    """Advance `state.q` of a block by one step back, and write z."""
    q = splat(constants.decay_s, like) * (load(state.q, offset, like) + load(state.p, offset, like))
    store(state.q, offset, q)
    store(z, place + offset, q)


@jit
def srm_scan_backward(
    steps: int,
    padded: int,
    loop: Floats,
    constants: SrmConstants,
    state: State,
    grad_spikes: Floats,
    membrane: Floats,
    z: Floats,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.srm_scan_backward`, arrays (B * T * P,).

    `loop` (N * P,) has the recurrent weights by post-neuron, or is empty. Scratch: `state`.
    """
    while True:
        b = take(turn)
        if b == NONE:
            return
        for i in range(padded):
            state.p[i] = state.q[i] = np.float32(0)
        for t in range(steps - 1, -1, -1):
            place = (b * steps + t) * padded
            for offset in range(0, padded, 64):
                block_correlate(min(64, padded - offset), place, offset, constants, state, z)
            for offset in range(0, padded, 64):
                block_backward(
                    min(64, padded - offset), place, offset, loop, constants, state, grad_spikes, membrane, z, padded
                )


@jit
def pool_drive(
    words_in: Words, first: Indices, post: Indices, gain: np.float32, drive: Floats, padded: int, listed: Listed,
    turn: Turn,
) -> None:  # fmt: skip
    """The weighted spikes of a pool for the samples of a turn: `drive` (B * T * P,), which must be 0.

    `first` (I + 1), `post`: the neurons that see an input. Scratch: `listed` for the spikes of a step.
    """
    steps = words_in.shape[1]
    while True:
        b = take(turn)
        if b == NONE:
            return
        for t in range(steps):
            place = (b * steps + t) * padded
            for k in range(list_sparse(words_in, b, t, listed)):
                n = listed.neurons[k]
                for r in range(first[n], first[n + 1]):
                    drive[place + post[r]] += gain


@jit
def pool_share(
    z: Floats, steps: int, padded: int, first: Indices, post: Indices, gain: np.float32, grad_in: Floats, turn: Turn
) -> None:
    """The gradient of a pool's inputs for the samples of a turn: `grad_in` (B * T * I,) from z (B * T * P,)."""
    inputs = first.shape[0] - 1
    while True:
        b = take(turn)
        if b == NONE:
            return
        for t in range(b * steps, (b + 1) * steps):
            for j in range(inputs):
                sum_ = np.float32(0)
                for r in range(first[j], first[j + 1]):
                    sum_ += z[t * padded + post[r]]
                grad_in[t * inputs + j] = gain * sum_
