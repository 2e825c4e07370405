"""The loops of STBP's adaptive neurons, forwards and backwards through time; see `reference.alif`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats, Times, Words, in_64_32_or_16, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import above, choose, load, splat, store
from snnrun.kernels.cpu.constants import StbpConstants
from snnrun.kernels.cpu.current_loops import first_step
from snnrun.kernels.cpu.forward_loops import add_rows
from snnrun.kernels.cpu.spike_loops import list_spikes, valid_bits
from snnrun.kernels.cpu.stbp_backward_loops import Scan, list_near, multiply_rows
from snnrun.kernels.cpu.stbp_loops import load_row, slope_at, store_row

# The rows of `AlifConstants.own`; after OF_SPIKE the same for a neuron that has fired.
KEPT, SLOPE, BY_DECAY, REMAINS, GAIN, ROWS = 0, 2, 4, 6, 7, 8
OF_SPIKE = 1


class AlifConstants(NamedTuple):
    """What each neuron has of its own, and what all share.

    `own` (ROWS * P,): f(o), f'(o), df(o)/d(decay), each without a spike and of one; rho and 1 - rho. `rise` is by how
    much an adaptation of 1 raises the threshold, and `fall` is 1 / rise; 0 if no neuron `adapts`.
    """

    stbp: StbpConstants
    own: Floats
    adapts: bool
    rise: np.float32
    fall: np.float32


class AlifLayer(NamedTuple):
    """A layer of `neurons`: its `drive` (B * K * N,), K = `values`; `recurrent` (N * P,), by pre-neuron, or empty."""

    drive: Floats
    values: int
    recurrent: Floats
    neurons: int
    padded: int
    constants: AlifConstants


@part
def of_each(like: Any, row: int, offset: int, fired: np.uint64, padded: int, constants: AlifConstants) -> Any:
    """A constant of each neuron of a block by whether it has fired."""
    place = row * padded + offset
    return choose(fired, load(constants.own, place + OF_SPIKE * padded, like), load(constants.own, place, like))


# ---- forwards -------------------------------------------------------------------------------------------------------


@part
def alif_step(
    like: Any, drive: Any, u: Any, a: Any, b: int, t: int, offset: int, layer: AlifLayer, words: Words,
    membrane: Floats, effective: Floats,
) -> Any:  # fmt: skip
    """Advance a block by one step, from rest at step 0; returns its membrane, its adaptation and its spikes."""
    constants, padded, w = layer.constants, layer.padded, offset // 64
    place, left = (b * words.shape[1] + t) * layer.neurons + offset, layer.neurons - offset
    fired = words[b, t - 1, w] if t else np.uint64(0)
    u = drive + of_each(like, KEPT, offset, fired, padded, constants) * u
    store_row(membrane, place, left, u)
    x = u
    if constants.adapts:
        gain = choose(fired, load(constants.own, GAIN * padded + offset, like), like)
        a = a * load(constants.own, REMAINS * padded + offset, like) + gain
        x = u - a * splat(constants.rise, like)
        store_row(effective, place, left, x)
    v_th = splat(constants.stbp.v_th, like)
    fired = (above(x, v_th) if constants.stbp.strict else ~above(v_th, x)) & valid_bits(left)
    words[b, t, w] = fired
    return u, a, fired


@in_64_32_or_16
@part
def alif_block(
    like: Any, b: int, offset: int, layer: AlifLayer, words: Words, membrane: Floats, effective: Floats, counts: Floats
) -> None:
    """All steps of a block of uncoupled neurons."""
    steps, one = words.shape[1], splat(np.float32(1), like)
    u, a, n = like, like, like
    for k in range(layer.values):
        drive = load_row(like, layer.drive, (b * layer.values + k) * layer.neurons + offset, layer.neurons - offset)
        for t in range(first_step(k, layer.values, steps), first_step(k + 1, layer.values, steps)):
            u, a, fired = alif_step(like, drive, u, a, b, t, offset, layer, words, membrane, effective)
            n = choose(fired, n + one, n)
    store(counts, b * layer.padded + offset, n)


@in_64_32_or_16
@part
def alif_coupled(
    like: Any, b: int, t: int, offset: int, place: int, layer: AlifLayer, own: Times, looped: int, words: Words,
    membrane: Floats, effective: Floats, counts: Floats, state: Floats,
) -> None:  # fmt: skip
    """Advance a block of coupled neurons by one step, with the drive at drive[place] and the spikes own[:looped]."""
    padded, at = layer.padded, b * layer.padded + offset
    drive = load_row(like, layer.drive, place + offset, layer.neurons - offset)
    if looped:
        drive = drive + add_rows(like, layer.recurrent, padded, offset, own, 0, looped)
    u, a = load(state, offset, like), load(state, padded + offset, like)
    u, a, fired = alif_step(like, drive, u, a, b, t, offset, layer, words, membrane, effective)
    store(state, offset, u)
    store(state, padded + offset, a)
    n = load(counts, at, like)
    store(counts, at, choose(fired, n + splat(np.float32(1), like), n))


@jit
def alif_scan(
    layer: AlifLayer, words: Words, membrane: Floats, effective: Floats, counts: Floats, own: Times, state: Floats,
    turn: Turn,
) -> None:  # fmt: skip
    """The samples of a turn of `reference.alif_scan`.

    `words` (B, T, W), `membrane` and, if neurons adapt, `effective` (B * T * N,) are written, and `counts` (B * P,),
    which must be zeros. Scratch: `own` with room for the layer's spikes of a step, `state` (2 * P,).
    """
    steps, padded = words.shape[1], layer.padded
    while True:
        b = take(turn)
        if b == NONE:
            return
        if not layer.recurrent.shape[0]:
            for offset in range(0, padded, 64):
                alif_block(min(64, padded - offset), b, offset, layer, words, membrane, effective, counts)
            continue
        for i in range(2 * padded):
            state[i] = np.float32(0)
        for t in range(steps):
            looped = list_spikes(words, b, t - 1, own) if t else 0
            place = (b * layer.values + t * layer.values // steps) * layer.neurons
            for offset in range(0, padded, 64):
                width = min(64, padded - offset)
                alif_coupled(
                    width, b, t, offset, place, layer, own, looped, words, membrane, effective, counts, state
                )  # fmt: skip


# ---- backwards ------------------------------------------------------------------------------------------------------


class AlifScan(NamedTuple):
    """What the recursion backwards reads: a `Scan` whose membrane is the effective one, and `membrane` (B * T * N,)."""

    scan: Scan
    membrane: Floats
    constants: AlifConstants


class Gradients(NamedTuple):
    """What it writes: dL/du as `drive` (B * T * N,), and dL/d(decay) and dL/drho of each sample (B * P,)."""

    drive: Floats
    decay: Floats
    rho: Floats


@part
def alif_step_back(like: Any, b: int, t: int, offset: int, looped: Any, state: Any, layer: AlifScan) -> Any:
    """The state of a block at step t from that at step t + 1.

    It is dL/du, dL/da, and the sums so far for dL/d(decay) and dL/drho. `looped` is what dL/du at step t + 1 sends back
    by recurrent synapses.
    """
    (ahead, adaptation, by_decay, by_rho), scan, constants = state, layer.scan, layer.constants
    padded, left = scan.padded, scan.neurons - offset
    place = (b * scan.words.shape[1] + t) * scan.neurons + offset
    fired, one = scan.words[b, t, offset // 64], splat(np.float32(1), like)
    u, x = load_row(like, layer.membrane, place, left), load_row(like, scan.membrane, place, left)
    grad = load_row(like, scan.grad, b * scan.neurons + offset if scan.same else place, left)
    h = slope_at(like, x, scan.given, place, left, scan.constants)
    through = ahead * u
    by_decay = by_decay + through * of_each(like, BY_DECAY, offset, fired, padded, constants)
    if constants.adapts:
        a = (u - x) * splat(constants.fall, like)
        by_rho = by_rho + adaptation * (a - choose(fired, one, like))
    if scan.constants.temporal:
        grad = grad + looped + through * of_each(like, SLOPE, offset, fired, padded, constants)
        if constants.adapts:
            grad = grad + adaptation * load(constants.own, GAIN * padded + offset, like)
            adaptation = adaptation * load(constants.own, REMAINS * padded + offset, like)
        ahead = ahead * of_each(like, KEPT, offset, fired, padded, constants)
    else:
        ahead, adaptation = like, like
    error = grad * h
    if constants.adapts:
        adaptation = adaptation - error * splat(constants.rise, like)
    return ahead + error, adaptation, by_decay, by_rho


@in_64_32_or_16
@part
def alif_block_back(like: Any, b: int, offset: int, layer: AlifScan, gradients: Gradients) -> None:
    """All steps of a block of uncoupled neurons."""
    scan = layer.scan
    steps, state = scan.words.shape[1], (like, like, like, like)
    for t in range(steps - 1, -1, -1):
        state = alif_step_back(like, b, t, offset, like, state, layer)
        place = (b * steps + t) * scan.neurons + offset
        store_row(gradients.drive, place, scan.neurons - offset, state[0])
    store(gradients.decay, b * scan.padded + offset, state[2])
    store(gradients.rho, b * scan.padded + offset, state[3])


@in_64_32_or_16
@part
def alif_coupled_back(
    like: Any, b: int, t: int, offset: int, layer: AlifScan, looped: Floats, room: Floats, gradients: Gradients
) -> None:
    """Step t of a block of coupled neurons, whose dL/du and dL/da of step t + 1 are in `room` (2 * P,)."""
    scan = layer.scan
    padded, at = scan.padded, b * scan.padded + offset
    state = (
        load(room, offset, like), load(room, padded + offset, like),
        load(gradients.decay, at, like), load(gradients.rho, at, like),
    )  # fmt: skip
    state = alif_step_back(like, b, t, offset, load(looped, offset, like), state, layer)
    store(room, offset, state[0])
    store(room, padded + offset, state[1])
    store(gradients.decay, at, state[2])
    store(gradients.rho, at, state[3])
    place = (b * scan.words.shape[1] + t) * scan.neurons + offset
    store_row(gradients.drive, place, scan.neurons - offset, state[0])


@jit
def alif_scan_backward(
    layer: AlifScan, gradients: Gradients, looped: Floats, room: Floats, listed: Times, turn: Turn
) -> None:
    """The samples of a turn of `reference.alif_scan_backward`. The sums in `gradients` must be zeros.

    Scratch: `looped` (P,), `room` (2 * P,), and `listed` with room for all neurons.
    """
    scan = layer.scan
    padded = scan.padded
    while True:
        b = take(turn)
        if b == NONE:
            return
        if not scan.recurrent.shape[0]:
            for offset in range(0, padded, 64):
                alif_block_back(min(64, padded - offset), b, offset, layer, gradients)
            continue
        for i in range(padded):
            looped[i] = room[i] = room[padded + i] = np.float32(0)
        for t in range(scan.words.shape[1] - 1, -1, -1):
            # A neuron outside of its surrogate's reach takes no error.
            multiply_rows(scan.recurrent, padded, listed, list_near(b, t, scan, listed), room, 0, looped)
            for offset in range(0, padded, 64):
                alif_coupled_back(min(64, padded - offset), b, t, offset, layer, looped, room, gradients)
