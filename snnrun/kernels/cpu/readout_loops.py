"""Readouts: what a spike of an input at each step is worth to each neuron of a block, for either rule."""

from __future__ import annotations

from typing import Any

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Words, part
from snnrun.compiled.vector import above, choose, load, lowest_bit, splat, store, zeros16, zeros32, zeros64
from snnrun.kernels.cpu.spike_loops import held_bits

STRSBP, HM2BP = 0, 1
RULES = {"strsbp": STRSBP, "hm2bp": HM2BP}

# Below it a filter counts as empty: no denormal numbers, on which a processor is tens of times slower.
TINY = np.float32(1e-30)


@part
def strsbp_readout(
    like: Any, words: Words, b: int, w: int, constants: Floats, readout: Floats, base: int, stride: int
) -> None:
    """Word w of sample b of `reference.strsbp_readout`, row t at readout[base + t * stride]."""
    decay_m, decay_s = splat(constants[0], like), splat(constants[1], like)
    drive, one, tiny = splat(constants[2], like), splat(np.float32(1), like), splat(TINY, like)
    t_ref = int(constants[4])
    steps = words.shape[1]
    q, p = like, like
    store(readout, base + (steps - 1) * stride, like)
    for t in range(steps - 1, 0, -1):
        q = choose(words[b, t, w], one, q)
        q = choose(held_bits(words, b, t, w, t_ref), like, q)
        p = p * decay_s + q * drive
        p = choose(above(p, tiny), p, like)
        store(readout, base + (t - 1) * stride, p)
        q = q * decay_m
        q = choose(above(q, tiny), q, like)


@part
def hm2bp_readout(
    like: Any,
    words: Words,
    b: int,
    w: int,
    constants: Floats,
    kernel: Floats,
    previous: Indices,
    readout: Floats,
    base: int,
    stride: int,
) -> None:
    """Word w of sample b of `reference.hm2bp_readout`.

    The kernel h runs backwards with the steps, from the spike that follows: it decays with tau_m and gains from x_s,
    which decays with tau_s, so that nothing cancels. x_m tells the end of the window. `constants` from 5 on are the
    window in whole steps, the decays of tau_m and tau_s, what h, x_m and x_s are one step before a spike, the gain, and
    x_m at the end. Where a tail ends only a scan forwards knows, which leaves there what ends; for it is `kernel`, by
    the distance to the next spike.
    """
    window, t_ref, steps = int(constants[5]), int(constants[4]), words.shape[1]
    decay_m, decay_s, start = splat(constants[6], like), splat(constants[7], like), splat(constants[8], like)
    start_m, start_s = splat(constants[9], like), splat(constants[10], like)
    gain, end, tiny = splat(constants[11], like), splat(constants[12], like), splat(TINY, like)
    for t in range(steps):
        store(readout, base + t * stride, like)
    if window < steps:
        for i in range(previous.shape[0]):
            previous[i] = -1
        for last in range(steps):
            word = words[b, last, w]
            begin = last - window
            while word != np.uint64(0):
                i = lowest_bit(word)
                word &= word - np.uint64(1)
                first = previous[i]
                if begin > 0 and first >= begin:
                    readout[base + begin * stride + i] = kernel[last - first] * constants[7] ** np.float32(
                        first - begin
                    )
                previous[i] = last
    h, x_m, x_s, tail = like, like, like, like
    for t in range(steps - 1, 0, -1):
        place = base + t * stride
        h = choose(held_after(words, b, t, w, t_ref), like, choose(above(x_m, end), h, like))
        cut = load(readout, place, like)
        store(readout, place, h + tail)
        fired = words[b, t, w]
        tail = (tail + choose(fired, h, like) - cut) * decay_s
        tail = choose(above(tail, tiny), tail, like)
        h = choose(fired, start, h * decay_m + x_s * gain)
        x_m, x_s = choose(fired, start_m, x_m * decay_m), choose(fired, start_s, x_s * decay_s)
        x_m, x_s = choose(above(x_m, tiny), x_m, like), choose(above(x_s, tiny), x_s, like)


@part
def held_after(words: Words, b: int, t: int, w: int, t_ref: int) -> np.uint64:
    """Bits of the neurons of word w that fire in the t_ref steps after t."""
    held = np.uint64(0)
    for lag in range(1, min(t_ref, words.shape[1] - 1 - t) + 1):
        held |= words[b, t + lag, w]
    return held


@part
def read(
    like: Any,
    rule: int,
    words: Words,
    b: int,
    w: int,
    constants: Floats,
    kernel: Floats,
    previous: Indices,
    readout: Floats,
    base: int,
    stride: int,
) -> None:
    """The readout of a block of neurons by either rule."""
    if rule == HM2BP:
        hm2bp_readout(like, words, b, w, constants, kernel, previous, readout, base, stride)
    else:
        strsbp_readout(like, words, b, w, constants, readout, base, stride)


@part
def read_block(
    rule: int,
    width: int,
    words: Words,
    b: int,
    w: int,
    constants: Floats,
    kernel: Floats,
    previous: Indices,
    readout: Floats,
    base: int,
    stride: int,
) -> None:
    """The readout of a block of 16, 32 or 64 neurons by either rule."""
    if width == 64:
        read(zeros64(), rule, words, b, w, constants, kernel, previous, readout, base, stride)
    elif width == 32:
        read(zeros32(), rule, words, b, w, constants, kernel, previous, readout, base, stride)
    else:
        read(zeros16(), rule, words, b, w, constants, kernel, previous, readout, base, stride)
