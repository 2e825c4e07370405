"""Readouts: what a spike of an input at each step is worth to each neuron of a block, for either rule."""

from __future__ import annotations

from typing import Any

import numpy as np

from snnrun.jit import Floats, Indices, Words, part
from snnrun.kernels.cpu.spike_loops import held_bits
from snnrun.vector import above, choose, lowest_bit, splat, store, zeros16, zeros32, zeros64

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
    width: int,
    words: Words,
    b: int,
    w: int,
    constants: Floats,
    kernel: Floats,
    following: Indices,
    tail: Floats,
    readout: Floats,
    base: int,
    stride: int,
) -> None:
    """Word w of sample b of `reference.hm2bp_readout`.

    `kernel` by the distance to the next spike; constants[5:7] are its window and decay. The first pass leaves in the
    readout what changes the tail at each step; the second replaces it.
    """
    window, decay = constants[5], constants[6]
    steps = words.shape[1]
    none = 2 * steps
    for i in range(width):
        following[i], tail[i] = none, np.float32(0)
    for t in range(steps):
        for i in range(width):
            readout[base + t * stride + i] = np.float32(0)
    for t in range(steps - 1, -1, -1):
        word = words[b, t, w]
        while word != np.uint64(0):
            i = lowest_bit(word)
            word &= word - np.uint64(1)
            after = following[i]
            if after < none:
                begin = max(0, int(np.floor(after - window)))
                if begin <= t:
                    height = kernel[after - t]
                    readout[base + t * stride + i] += height
                    readout[base + begin * stride + i] -= height * np.float32(decay ** np.float32(t - begin))
            following[i] = t
    for i in range(width):
        following[i] = none
    for t in range(steps - 1, -1, -1):
        row = base + t * stride
        for i in range(width):
            change, x = readout[row + i], tail[i]
            readout[row + i] = kernel[following[i] - t] + x if t else np.float32(0)
            x = (x + change) * decay
            tail[i] = x if abs(x) > TINY else np.float32(0)
            following[i] = t if (words[b, t, w] >> np.uint64(i)) & np.uint64(1) else following[i]


@part
def read_block(
    rule: int,
    width: int,
    words: Words,
    b: int,
    w: int,
    constants: Floats,
    kernel: Floats,
    following: Indices,
    tail: Floats,
    readout: Floats,
    base: int,
    stride: int,
) -> None:
    """The readout of a block of up to 64 neurons by either rule."""
    if rule == HM2BP:
        hm2bp_readout(width, words, b, w, constants, kernel, following, tail, readout, base, stride)
    elif width == 64:
        strsbp_readout(zeros64(), words, b, w, constants, readout, base, stride)
    elif width == 32:
        strsbp_readout(zeros32(), words, b, w, constants, readout, base, stride)
    else:
        strsbp_readout(zeros16(), words, b, w, constants, readout, base, stride)
