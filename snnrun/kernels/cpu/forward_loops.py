"""The loop of `reference.lif_forward`."""

from __future__ import annotations

from typing import Any

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Places, Times, Words, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import above, choose, load, splat, store, zeros16, zeros32, zeros64
from snnrun.kernels.cpu.spike_loops import count_sample, held_bits, last_step, list_sparse, list_spikes, valid_bits

# Steps between two looks whether any neuron can still fire: a current a adds at most a to a membrane in all, and the
# margin covers the rounding of either side.
LOOK, MARGIN = 8, 1.0001


@part
def add_rows(like: Any, rows: Floats, stride: int, offset: int, index: Times, start: int, stop: int) -> Any:
    """Sum of the rows of `index[start:stop]`, one block wide."""
    sum_ = like
    for k in range(start, stop):
        sum_ = sum_ + load(rows, np.int64(index[k]) * stride + offset, like)
    return sum_


@part
def add_row_pairs(
    like: Any, rows: Floats, stride: int, offset: int, index: Times, start: int, stop: int
) -> tuple[Any, Any]:
    """`add_rows` for a block and the one after it."""
    a, b = like, like
    for k in range(start, stop):
        place = np.int64(index[k]) * stride + offset
        a = a + load(rows, place, like)
        b = b + load(rows, place + 64, like)
    return a, b


@part
def lif_step(
    like: Any,
    drive: Any,
    offset: int,
    held: np.uint64,
    valid: np.uint64,
    constants: Floats,
    u: Floats,
    a: Floats,
) -> Any:
    """Advance a block by one step with its synaptic input `drive`; returns the bits of those that fire."""
    current = load(a, offset, like) * splat(constants[1], like) + drive
    store(a, offset, current)
    x = load(u, offset, like) * splat(constants[0], like) + current * splat(constants[2], like)
    x = choose(held, like, x)
    fired = above(x, splat(constants[3], like)) & valid
    store(u, offset, choose(fired, like, x))
    return fired


@part
def advance(
    like: Any,
    b: int,
    t: int,
    offset: int,
    rows: Floats,
    padded: int,
    inputs: Times,
    count: int,
    looped: int,
    loop: Floats,
    constants: Floats,
    neurons: int,
    words: Words,
    u: Floats,
    a: Floats,
) -> Any:
    """Advance a block by one step, with the input spikes inputs[:count]; returns the bits of those that fire."""
    drive = add_rows(like, rows, padded, offset, inputs, 0, count)
    if looped:
        drive = drive + load(loop, offset, like)
    held = held_bits(words, b, t, offset // 64, int(constants[4]))
    fired = lif_step(like, drive, offset, held, valid_bits(neurons - offset), constants, u, a)
    words[b, t, offset // 64] = fired
    return fired


@part
def advance_pair(
    b: int,
    t: int,
    offset: int,
    rows: Floats,
    padded: int,
    inputs: Times,
    count: int,
    looped: int,
    loop: Floats,
    constants: Floats,
    neurons: int,
    words: Words,
    u: Floats,
    a: Floats,
) -> Any:
    """`advance` for a block of 64 and the one after it; returns whether any fires."""
    drive, second = add_row_pairs(zeros64(), rows, padded, offset, inputs, 0, count)
    if looped:
        drive = drive + load(loop, offset, zeros64())
        second = second + load(loop, offset + 64, zeros64())
    w, t_ref = offset // 64, int(constants[4])
    held, held_after = held_bits(words, b, t, w, t_ref), held_bits(words, b, t, w + 1, t_ref)
    valid = valid_bits(neurons - offset - 64)
    fired = lif_step(zeros64(), drive, offset, held, ~np.uint64(0), constants, u, a)
    after = lif_step(zeros64(), second, offset + 64, held_after, valid, constants, u, a)
    words[b, t, w], words[b, t, w + 1] = fired, after
    return fired | after


@part
def can_fire(u: Floats, a: Floats, threshold: float) -> Any:
    """Whether any neuron can reach the threshold without further input."""
    highest = np.float32(0)
    for i in range(u.shape[0]):
        highest = max(highest, max(u[i], np.float32(0)) + max(a[i], np.float32(0)))
    return highest * np.float32(MARGIN) > threshold


@part
def run_block(
    like: Any,
    b: int,
    offset: int,
    rows: Floats,
    padded: int,
    inputs: Times,
    begin: Indices,
    last: int,
    constants: Floats,
    neurons: int,
    words: Words,
    counts: Floats,
) -> None:
    """All steps of a block of neurons that no synapse couples, with the input spikes inputs[begin[t]:begin[t + 1]]."""
    decay_m, decay_s, rise = splat(constants[0], like), splat(constants[1], like), splat(constants[2], like)
    theta, t_ref, one = splat(constants[3], like), int(constants[4]), splat(np.float32(1), like)
    margin = splat(np.float32(MARGIN), like)
    valid, w = valid_bits(neurons - offset), offset // 64
    u, a, n = like, like, like
    for t in range(1, words.shape[1]):
        a = a * decay_s + add_rows(like, rows, padded, offset, inputs, begin[t - 1], begin[t])
        u = u * decay_m + a * rise
        u = choose(held_bits(words, b, t, w, t_ref), like, u)
        fired = above(u, theta) & valid
        u = choose(fired, like, u)
        n = choose(fired, n + one, n)
        words[b, t, w] = fired
        if t > last and t % LOOK == 0:
            highest = choose(above(u, like), u, like) + choose(above(a, like), a, like)
            if above(highest * margin, theta) & valid == np.uint64(0):
                break
    store(counts, b * padded + offset, n)


@jit
def lif_forward(
    words_in: Words,
    rows: Floats,
    padded: int,
    constants: Floats,
    neurons: int,
    words: Words,
    counts: Floats,
    inputs: Times,
    begin: Indices,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.lif_forward` without recurrent synapses, block by block.

    So the state of a block stays in registers and its weights in the nearest cache. `words` (B, T, W) and `counts`
    (B, P) are written; `constants`: decay_m, decay_s, 1 / tau_s, threshold, t_ref. Scratch: `inputs` with room for a
    sample's spikes, `begin` (T + 1,). Once the input is over, the simulation ends when no membrane can reach the
    threshold any more.
    """
    steps = words_in.shape[1]
    while True:
        b = take(turn)
        if b == NONE:
            return
        begin[0] = 0
        for t in range(steps):
            begin[t + 1] = list_spikes(words_in, b, t, inputs, begin[t])
            for w in range(words.shape[2]):
                words[b, t, w] = np.uint64(0)
        last = last_step(words_in, b)
        offset = 0
        while padded - offset >= 64:
            run_block(zeros64(), b, offset, rows, padded, inputs, begin, last, constants, neurons, words, counts)
            offset += 64
        if padded - offset == 32:
            run_block(zeros32(), b, offset, rows, padded, inputs, begin, last, constants, neurons, words, counts)
        elif padded - offset == 16:
            run_block(zeros16(), b, offset, rows, padded, inputs, begin, last, constants, neurons, words, counts)


@part
def add_recurrent(own: Indices, fired: int, first: Indices, post: Places, recurrent: Floats, loop: Floats) -> None:
    """Add to `loop` what the synapses of the neurons own[:fired] bring, four at a time, see `arrays.in_fours`."""
    for k in range(fired):
        s, stop = np.uint64(first[own[k]]), np.uint64(first[own[k] + 1])
        while s < stop:
            for _ in range(4):
                loop[post[s]] += recurrent[s]
                s += np.uint64(1)


@jit
def coupled_forward(
    words_in: Words,
    rows: Floats,
    padded: int,
    first: Indices,
    post: Places,
    recurrent: Floats,
    constants: Floats,
    neurons: int,
    words: Words,
    counts: Floats,
    u: Floats,
    a: Floats,
    loop: Floats,
    inputs: Times,
    busy: Indices,
    own: Indices,
    block: Words,
    turn: Turn,
) -> None:
    """`lif_forward` of a layer with recurrent synapses, grouped as by `arrays.in_fours`: step by step.

    Scratch: `u`, `a` (P,), `loop` (P + 1,), `inputs` and `own` with room for a step's spikes, `busy` (W,), `block`
    (64,).
    """
    steps = words_in.shape[1]
    while True:
        b = take(turn)
        if b == NONE:
            return
        for i in range(padded):
            u[i] = a[i] = loop[i] = np.float32(0)
        for t in range(steps):
            for w in range(words.shape[2]):
                words[b, t, w] = np.uint64(0)
        last = last_step(words_in, b)
        for t in range(1, steps):
            count = list_spikes(words_in, b, t - 1, inputs)
            looped = list_sparse(words, b, t - 1, busy, own)
            add_recurrent(own, looped, first, post, recurrent, loop)
            fired = np.uint64(0)
            offset = 0
            while padded - offset >= 128:
                fired |= advance_pair(
                    b, t, offset, rows, padded, inputs, count, looped, loop, constants, neurons, words, u, a
                )
                offset += 128
            if padded - offset >= 64:
                fired |= advance(
                    zeros64(), b, t, offset, rows, padded, inputs, count, looped, loop, constants, neurons, words, u, a
                )
                offset += 64
            if padded - offset == 32:
                fired |= advance(
                    zeros32(), b, t, offset, rows, padded, inputs, count, looped, loop, constants, neurons, words, u, a
                )
            elif padded - offset == 16:
                fired |= advance(
                    zeros16(), b, t, offset, rows, padded, inputs, count, looped, loop, constants, neurons, words, u, a
                )
            if looped:
                for i in range(padded):
                    loop[i] = np.float32(0)
            over = t > last and fired == np.uint64(0)
            if over and t % LOOK == 0 and not can_fire(u, a, constants[3]):
                break
        count_sample(words, b, block, counts, neurons)
