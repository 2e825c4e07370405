"""The loop of `reference.lif_forward`."""

from __future__ import annotations

from typing import Any

import numpy as np

from snnrun.kernels.cpu.jit import Floats, Indices, Times, Words, jit, part
from snnrun.kernels.cpu.spike_loops import held_bits, last_step, list_spikes, valid_bits
from snnrun.kernels.cpu.vector import above, choose, load, splat, store, zeros16, zeros32, zeros64

# Steps between two looks whether any neuron can still fire.
LOOK = 8


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
    counts: Floats,
    base: int,
) -> Any:
    """Advance a block by one step with its synaptic input `drive`; returns the bits of those that fire."""
    current = load(a, offset, like) * splat(constants[1], like) + drive
    store(a, offset, current)
    x = load(u, offset, like) * splat(constants[0], like) + current * splat(constants[2], like)
    x = choose(held, like, x)
    fired = above(x, splat(constants[3], like)) & valid
    store(u, offset, choose(fired, like, x))
    if fired:
        n = load(counts, base + offset, like)
        store(counts, base + offset, choose(fired, n + splat(np.float32(1), like), n))
    return fired


@jit
def lif_forward(
    words_in: Words,
    rows: Floats,
    padded: int,
    first: Indices,
    post: Indices,
    recurrent: Floats,
    constants: Floats,
    neurons: int,
    words: Words,
    counts: Floats,
    u: Floats,
    a: Floats,
    loop: Floats,
    inputs: Times,
    own: Times,
    start: int,
    stop: int,
) -> None:
    """Samples start ... stop of `reference.lif_forward`; `words` (B, T, W) and `counts` (B, P) come in as zeros.

    Scratch: `u`, `a`, `loop` (P,), `inputs` and `own` of as many entries as neurons, in whole words.

    `constants`: decay_m, decay_s, 1 / tau_s, threshold, t_ref. A layer whose recurrent weights are `first` of length 0
    has none. Once the input is over, the simulation ends when no membrane can reach the threshold any more.
    """
    steps = words_in.shape[1]
    t_ref, theta = int(constants[4]), constants[3]
    zero16, zero32, zero64 = zeros16(), zeros32(), zeros64()
    every = ~np.uint64(0)
    for b in range(start, stop):
        for i in range(padded):
            u[i] = a[i] = loop[i] = np.float32(0)
        last = last_step(words_in, b)
        looped = 0
        for t in range(1, steps):
            spikes = list_spikes(words_in, b, t - 1, inputs)
            if first.shape[0]:
                looped = list_spikes(words, b, t - 1, own)
                for k in range(looped):
                    for s in range(first[own[k]], first[own[k] + 1]):
                        loop[post[s]] += recurrent[s]
            fired_any = np.uint64(0)
            offset = 0
            while offset < padded:
                w = offset // 64
                held = held_bits(words, b, t, w, t_ref)
                if padded - offset >= 128:
                    drive, second = add_row_pairs(zero64, rows, padded, offset, inputs, 0, spikes)
                    if looped:
                        drive = drive + load(loop, offset, zero64)
                        second = second + load(loop, offset + 64, zero64)
                    valid = valid_bits(neurons - offset - 64)
                    fired = lif_step(zero64, drive, offset, held, every, constants, u, a, counts, b * padded)
                    held = held_bits(words, b, t, w + 1, t_ref)
                    other = lif_step(zero64, second, offset + 64, held, valid, constants, u, a, counts, b * padded)
                    words[b, t, w], words[b, t, w + 1] = fired, other
                    fired_any |= fired | other
                    offset += 128
                    continue
                valid = valid_bits(neurons - offset)
                if padded - offset == 64:
                    drive = add_rows(zero64, rows, padded, offset, inputs, 0, spikes)
                    if looped:
                        drive = drive + load(loop, offset, zero64)
                    fired = lif_step(zero64, drive, offset, held, valid, constants, u, a, counts, b * padded)
                elif padded - offset == 32:
                    drive32 = add_rows(zero32, rows, padded, offset, inputs, 0, spikes)
                    if looped:
                        drive32 = drive32 + load(loop, offset, zero32)
                    fired = lif_step(zero32, drive32, offset, held, valid, constants, u, a, counts, b * padded)
                else:
                    drive16 = add_rows(zero16, rows, padded, offset, inputs, 0, spikes)
                    if looped:
                        drive16 = drive16 + load(loop, offset, zero16)
                    fired = lif_step(zero16, drive16, offset, held, valid, constants, u, a, counts, b * padded)
                words[b, t, w] = fired
                fired_any |= fired
                offset += 64
            if looped:
                for i in range(padded):
                    loop[i] = np.float32(0)
            if t > last and t % LOOK == 0 and fired_any == np.uint64(0):
                highest = np.float32(0)
                for i in range(padded):
                    highest = max(highest, max(u[i], np.float32(0)) + max(a[i], np.float32(0)))
                # A current a adds at most a to a membrane in all; the margin covers the rounding of either side.
                if highest * np.float32(1.0001) <= theta:
                    break
