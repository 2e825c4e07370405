"""The loops of STBP."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats, Times, Words, in_64_32_or_16, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import above, choose, load, splat, store, zeros64
from snnrun.kernels.cpu.constants import GIVEN, RECTANGLE, StbpConstants
from snnrun.kernels.cpu.forward_loops import add_row_pairs, add_rows
from snnrun.kernels.cpu.spike_loops import Trains, list_spikes, valid_bits

# A thread adds up the gradients of so many inputs at a time.
INPUTS = 64


class StbpLayer(NamedTuple):
    """A dense layer of `neurons`: `rows` (I * P,) has weights by input; `bias` (P,); `recurrent` (N * P,) or empty."""

    rows: Floats
    bias: Floats
    recurrent: Floats
    neurons: int
    constants: StbpConstants


@part
def stbp_fire(
    like: Any,
    u: Any,
    b: int,
    t: int,
    offset: int,
    layer: StbpLayer,
    words: Words,
    membrane: Floats,
    counts: Floats,
) -> None:
    """Add what is left of a block's membrane to its input `u` of a step, and write membrane, spikes and counts."""
    constants, w = layer.constants, offset // 64
    padded, steps = counts.shape[1], membrane.shape[0] // counts.size
    place = (b * steps + t) * padded + offset
    if t:
        decay = choose(words[b, t - 1, w], splat(constants.decays[1], like), splat(constants.decays[0], like))
        u = u + decay * load(membrane, place - padded, like)
    store(membrane, place, u)
    v_th = splat(constants.v_th, like)
    fired = (above(u, v_th) if constants.strict else ~above(v_th, u)) & valid_bits(layer.neurons - offset)
    if fired:
        n = load(counts, b * padded + offset, like)
        store(counts, b * padded + offset, choose(fired, n + splat(np.float32(1), like), n))
    words[b, t, w] = fired


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
) -> None:
    """Advance a block by one step, with the input spikes inputs[:spikes] and the layer's own spikes own[:looped]."""
    padded = counts.shape[1]
    u = load(layer.bias, offset, like) + add_rows(like, layer.rows, padded, offset, inputs, 0, spikes)
    if looped:
        u = u + add_rows(like, layer.recurrent, padded, offset, own, 0, looped)
    stbp_fire(like, u, b, t, offset, layer, words, membrane, counts)


@jit
def stbp_forward(
    words_in: Words,
    layer: StbpLayer,
    words: Words,
    counts: Floats,
    membrane: Floats,
    inputs: Times,
    own: Times,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.stbp_forward`.

    `words` (B, T, W) and `counts` (B, P) must be zeros; `membrane` (B * T * P,) is written. Scratch: `inputs` and `own`
    with room for a step's spikes.
    """
    padded = counts.shape[1]
    looped = 0
    while True:
        b = take(turn)
        if b == NONE:
            return
        for t in range(words_in.shape[1]):
            spikes = list_spikes(words_in, b, t, inputs)
            if layer.recurrent.shape[0]:
                looped = list_spikes(words, b, t - 1, own) if t else 0
            for offset in range(0, padded, 64):
                width = min(64, padded - offset)
                stbp_step(width, b, t, offset, layer, inputs, spikes, own, looped, words, membrane, counts)


@in_64_32_or_16
@part
def block_backward(
    like: Any,
    b: int,
    offset: int,
    words: Words,
    grad_spikes: Floats,
    membrane: Floats,
    given: Floats,
    constants: StbpConstants,
    grad_u: Floats,
    padded: int,
) -> None:
    """One block of `stbp_scan_backward`."""
    steps, w = words.shape[1], offset // 64
    v_th, height, reach = splat(constants.v_th, like), splat(constants.height, like), splat(constants.reach, like)
    decays, slopes = constants.decays, constants.slopes
    ahead = like
    for t in range(steps - 1, -1, -1):
        place = (b * steps + t) * padded + offset
        fired = words[b, t, w]
        u, grad = load(membrane, place, like), load(grad_spikes, place, like)
        if constants.surrogate == GIVEN:
            h = load(given, place, like)
        else:
            distance = u - v_th
            distance = choose(above(distance, like), distance, like - distance)
            h = height if constants.surrogate == RECTANGLE else height * (reach - distance)
            h = choose(above(reach, distance), h, like)
        if constants.temporal:
            grad = grad + ahead * u * choose(fired, splat(slopes[1], like), splat(slopes[0], like))
            decay = choose(fired, splat(decays[1], like), splat(decays[0], like))
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
    constants: StbpConstants,
    grad_u: Floats,
    padded: int,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.stbp_scan_backward` without recurrent synapses, arrays (B * T * P,)."""
    while True:
        b = take(turn)
        if b == NONE:
            return
        for offset in range(0, padded, 64):
            width = min(64, padded - offset)
            block_backward(width, b, offset, words, grad_spikes, membrane, given, constants, grad_u, padded)


@in_64_32_or_16
@part
def block_gradient(
    like: Any, trace: Floats, base: int, steps: int, trains: Trains, padded: int, span: tuple[int, int],
    gradient: Floats, offset: int,
) -> None:  # fmt: skip
    """One block of `weight_gradient`; `trace` holds row t of sample b at base + (b * steps + t) * padded."""
    first = trains.first
    for j in range(span[0], span[1]):
        sum_ = like
        for b in range(first.shape[0]):
            place = base + b * steps * padded
            sum_ = sum_ + add_rows(like, trace, padded, place, trains.times, first[b, j], first[b, j + 1])
        store(gradient, j * padded + offset, sum_)


@part
def pair_gradient(
    trace: Floats, base: int, steps: int, trains: Trains, padded: int, span: tuple[int, int],
    gradient: Floats, offset: int,
) -> None:  # fmt: skip
    """`block_gradient` for a block of 64 and the one after it."""
    first = trains.first
    for j in range(span[0], span[1]):
        sum_, after = zeros64(), zeros64()
        for b in range(first.shape[0]):
            place = base + b * steps * padded
            x, y = add_row_pairs(zeros64(), trace, padded, place, trains.times, first[b, j], first[b, j + 1])
            sum_, after = sum_ + x, after + y
        store(gradient, j * padded + offset, sum_)
        store(gradient, j * padded + offset + 64, after)


@jit
def weight_gradient(
    trace: Floats, delay: int, steps: int, trains: Trains, padded: int, gradient: Floats, turn: Turn
) -> None:
    """Sum over samples and steps of trace(t + delay) spikes(t), for the strips of a turn, of INPUTS each.

    `trace` is (B * T * P,). The strips' rows of `gradient` (I * P,) are written. A sum stays in registers until it is
    complete.
    """
    while True:
        k = take(turn)
        if k == NONE:
            return
        span = (k * INPUTS, min((k + 1) * INPUTS, trains.first.shape[1] - 1))
        pairs = padded // 128 * 128
        for offset in range(0, pairs, 128):
            pair_gradient(trace, delay * padded + offset, steps, trains, padded, span, gradient, offset)
        for offset in range(pairs, padded, 64):
            width = min(64, padded - offset)
            block_gradient(width, trace, delay * padded + offset, steps, trains, padded, span, gradient, offset)
