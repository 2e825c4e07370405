"""The loops of STBP that run forwards through time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats, Times, Words, in_64_32_or_16, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import above, choose, lanes, load, load_some, splat, store, store_some
from snnrun.kernels.cpu.constants import GIVEN, RECTANGLE, StbpConstants
from snnrun.kernels.cpu.forward_loops import add_rows
from snnrun.kernels.cpu.spike_loops import list_spikes, valid_bits
from snnrun.kernels.cpu.usual_loops import Steps, list_exceptions


class StbpLayer(NamedTuple):
    """A dense layer of `neurons`: `rows` (I * P,) has weights by input; `bias` (P,); `recurrent` (N * P,) or empty."""

    rows: Floats
    bias: Floats
    recurrent: Floats
    neurons: int
    constants: StbpConstants


@part
def load_row(like: Any, array: Floats, place: int, left: int) -> Any:
    """The lanes from array[place] on, where a row has `left` floats; 0 in the lanes beyond."""
    if left >= lanes(like):
        return load(array, place, like)
    return load_some(array, place, valid_bits(left), like)


@part
def store_row(array: Floats, place: int, left: int, vector: Any) -> None:
    """Write the first `left` lanes, or all, from array[place] on."""
    if left >= lanes(vector):
        store(array, place, vector)
    else:
        store_some(array, place, valid_bits(left), vector)


@part
def stbp_fire(
    like: Any, drive: Any, before: Any, b: int, t: int, offset: int, layer: StbpLayer, words: Words, membrane: Floats
) -> Any:
    """Advance a block by one step with its input `drive` and its membrane of the step `before`.

    Writes the membrane, row by row of N, and the spikes; returns both.
    """
    constants, w = layer.constants, offset // 64
    left = layer.neurons - offset
    u = drive
    if t:
        decay = choose(words[b, t - 1, w], splat(constants.decays[1], like), splat(constants.decays[0], like))
        u = u + decay * before
    store_row(membrane, (b * words.shape[1] + t) * layer.neurons + offset, left, u)
    v_th = splat(constants.v_th, like)
    fired = (above(u, v_th) if constants.strict else ~above(v_th, u)) & valid_bits(left)
    words[b, t, w] = fired
    return u, fired


@part
def stbp_state(
    like: Any, drive: Any, b: int, t: int, offset: int, layer: StbpLayer, words: Words, membrane: Floats,
    counts: Floats, state: Floats,
) -> None:  # fmt: skip
    """`stbp_fire` of a block whose membrane stays in `state` (P,) between the steps; adds its spikes to the counts."""
    u, fired = stbp_fire(like, drive, load(state, offset, like), b, t, offset, layer, words, membrane)
    store(state, offset, u)
    if fired:
        place = b * counts.shape[1] + offset
        n = load(counts, place, like)
        store(counts, place, choose(fired, n + splat(np.float32(1), like), n))


@in_64_32_or_16
@part
def stbp_block(
    like: Any, b: int, offset: int, layer: StbpLayer, listed: Steps, words: Words, membrane: Floats, counts: Floats
) -> None:
    """All steps of a block of uncoupled neurons, with the inputs that `list_exceptions` has listed."""
    padded, one, begin = counts.shape[1], splat(np.float32(1), like), listed.begin
    rows, inputs = layer.rows, listed.inputs
    usual = load(layer.bias, offset, like) + add_rows(like, rows, padded, offset, inputs, 0, begin[0])
    u, n = like, like
    for t in range(words.shape[1]):
        drive = usual + add_rows(like, rows, padded, offset, inputs, begin[2 * t], begin[2 * t + 1])
        if begin[0]:
            drive = drive - add_rows(like, rows, padded, offset, inputs, begin[2 * t + 1], begin[2 * t + 2])
        u, fired = stbp_fire(like, drive, u, b, t, offset, layer, words, membrane)
        n = choose(fired, n + one, n)
    store(counts, b * padded + offset, n)


@jit
def stbp_forward(
    words_in: Words, layer: StbpLayer, words: Words, counts: Floats, membrane: Floats, listed: Steps, turn: Turn
) -> None:
    """The samples of a turn of `reference.stbp_forward` without recurrent synapses, block by block.

    So the state of a block stays in registers and its weights in the nearest cache. `words` (B, T, W), `counts` (B, P)
    and `membrane` (B * T * N,) are written; `listed` is scratch.
    """
    padded = counts.shape[1]
    while True:
        b = take(turn)
        if b == NONE:
            return
        list_exceptions(words_in, b, listed)
        for offset in range(0, padded, 64):
            stbp_block(min(64, padded - offset), b, offset, layer, listed, words, membrane, counts)


@in_64_32_or_16
@part
def stbp_step(
    like: Any,
    b: int,
    t: int,
    offset: int,
    layer: StbpLayer,
    inputs: Times,
    spikes: int,
    own: Times,
    looped: int,
    words: Words,
    membrane: Floats,
    counts: Floats,
    state: Floats,
) -> None:
    """Advance a block by one step, with the input spikes inputs[:spikes] and the layer's own spikes own[:looped]."""
    padded = counts.shape[1]
    drive = load(layer.bias, offset, like) + add_rows(like, layer.rows, padded, offset, inputs, 0, spikes)
    if looped:
        drive = drive + add_rows(like, layer.recurrent, padded, offset, own, 0, looped)
    stbp_state(like, drive, b, t, offset, layer, words, membrane, counts, state)


@jit
def stbp_coupled(
    words_in: Words,
    layer: StbpLayer,
    words: Words,
    counts: Floats,
    membrane: Floats,
    inputs: Times,
    own: Times,
    state: Floats,
    turn: Turn,
) -> None:
    """`stbp_forward` of a layer with recurrent synapses: step by step. `counts` must be zeros.

    Scratch: `inputs` and `own` with room for a step's spikes, `state` (P,), which holds numbers.
    """
    padded = counts.shape[1]
    while True:
        b = take(turn)
        if b == NONE:
            return
        for t in range(words_in.shape[1]):
            spikes = list_spikes(words_in, b, t, inputs)
            looped = list_spikes(words, b, t - 1, own) if t else 0
            for offset in range(0, padded, 64):
                width = min(64, padded - offset)
                stbp_step(width, b, t, offset, layer, inputs, spikes, own, looped, words, membrane, counts, state)


@part
def slope_at(like: Any, u: Any, given: Floats, place: int, left: int, constants: StbpConstants) -> Any:
    """The surrogate derivative at the membranes `u` of a block, whose rows in `given` have `left` floats."""
    if constants.surrogate == GIVEN:
        return load_row(like, given, place, left)
    height, reach = splat(constants.height, like), splat(constants.reach, like)
    distance = u - splat(constants.v_th, like)
    distance = choose(above(distance, like), distance, like - distance)
    h = height if constants.surrogate == RECTANGLE else height * (reach - distance)
    return choose(above(reach, distance), h, like)


@in_64_32_or_16
@part
def near_block(like: Any, membrane: Floats, given: Floats, place: int, left: int, constants: StbpConstants) -> Any:
    """Bits of the neurons of a block whose surrogate derivative is not 0."""
    h = slope_at(like, load_row(like, membrane, place, left), given, place, left, constants)
    return (above(h, like) | above(like, h)) & valid_bits(left)


@jit
def stbp_near(membrane: Floats, neurons: int, constants: StbpConstants, words: Words, turn: Turn) -> None:
    """The samples of a turn of `reference.stbp_near`; `membrane` (B * T * N,), `words` (B, T, W) written."""
    while True:
        b = take(turn)
        if b == NONE:
            return
        for t in range(words.shape[1]):
            for w in range(words.shape[2]):
                place, left = (b * words.shape[1] + t) * neurons + 64 * w, neurons - 64 * w
                width = 64 if left > 32 else (32 if left > 16 else 16)
                words[b, t, w] = near_block(width, membrane, membrane, place, left, constants)
