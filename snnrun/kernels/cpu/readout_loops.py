"""Readouts: what an input spike at each step adds to the S-PSP of each neuron of a block, for both rules.

And to the derivatives of the S-PSP by a time constant.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from snnrun.compiled.jit import Floats, Indices, Words, in_64_32_or_16, part
from snnrun.compiled.vector import GROUP, above, choose, load, lowest_bit, splat, store
from snnrun.kernels.cpu.constants import (
    HM2BP,
    HM2BP_BY_TAU_M,
    HM2BP_BY_TAU_S,
    STRSBP,
    STRSBP_BY_TAU_M,
    STRSBP_BY_TAU_S,
    RuleConstants,
)
from snnrun.kernels.cpu.spike_loops import held_bits

# A filter below this counts as empty, because a processor is tens of times slower on denormal numbers.
TINY = np.float32(1e-30)
# It is looked for after so many steps: a filter that decays to denormal numbers in fewer is soon 0.
PASSES = 16
# A step of a readout waits for the step before. So those of so many groups of 16 lanes are computed side by side.
SIDE_BY_SIDE = 4


class Readout(NamedTuple):
    """A readout: its rule, its `values` row by row, and `previous` (64,), the last spike of each neuron of a block.

    `changes` (128 T,) is scratch of a block; only a derivative of HM2-BP's has it.
    """

    rule: RuleConstants
    previous: Indices
    values: Floats
    changes: Floats


def room_for_readout(rule: RuleConstants, steps: int, width: int) -> Readout:
    """Room for the readout of `width` neurons, which begins at the start of a cache line."""
    changes = np.empty(128 * steps if rule.number in (HM2BP_BY_TAU_M, HM2BP_BY_TAU_S) else 0, np.float32)
    return Readout(rule, np.empty(64, np.int32), torch.empty(steps * width).numpy(), changes)


@part
def strsbp_readout(like: Any, readout: Readout, words: Words, b: int, w: int, base: int, stride: int) -> None:
    """Word w of sample b of `reference.strsbp_readout`; row t is at values[base + t * stride]."""
    lif, values = readout.rule.lif, readout.values
    decay_m, decay_s, rise = splat(lif.decay_m, like), splat(lif.decay_s, like), splat(lif.rise, like)
    tiny, steps = splat(TINY, like), words.shape[1]
    q, p = like, like
    store(values, base + (steps - 1) * stride, like)
    for t in range(steps - 1, 0, -1):
        q = choose(words[b, t, w], rise, q)
        q = choose(held_bits(words, b, t, w, lif.t_ref), like, q)
        p = p * decay_s + q
        store(values, base + (t - 1) * stride, p)
        q = q * decay_m
        if t % PASSES == 0:
            p, q = choose(above(p, tiny), p, like), choose(above(q, tiny), q, like)


@part
def hm2bp_readout(like: Any, readout: Readout, words: Words, b: int, w: int, base: int, stride: int) -> None:
    """Word w of sample b of `reference.hm2bp_readout`.

    The kernel h is computed backwards through the steps, from the spike that follows. It decays with tau_m and gains
    from x_s, which decays with tau_s, so that no terms cancel. x_m shows where the window ends. Only a forward scan
    knows where a tail ends; it writes there what the tail then loses.
    """
    previous, values, steps = readout.previous, readout.values, words.shape[1]
    t_ref, constants = readout.rule.lif.t_ref, readout.rule.hm2bp
    window, kernel = constants.window, constants.kernel
    decay_m, decay_s, start = (
        splat(constants.decay_m, like),
        splat(constants.decay_s, like),
        splat(constants.start, like),
    )
    start_m, start_s = splat(constants.start_m, like), splat(constants.start_s, like)
    gain, end, tiny = splat(constants.gain, like), splat(constants.end, like), splat(TINY, like)
    for t in range(steps):
        store(values, base + t * stride, like)
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
                    values[base + begin * stride + i] = kernel[last - first] * constants.falls[first - begin]
                previous[i] = last
    h, x_m, x_s, tail = like, like, like, like
    for t in range(steps - 1, 0, -1):
        place = base + t * stride
        h = choose(held_after(words, b, t, w, t_ref), like, choose(above(x_m, end), h, like))
        cut = load(values, place, like)
        store(values, place, h + tail)
        fired = words[b, t, w]
        tail = (tail + choose(fired, h, like) - cut) * decay_s
        h = choose(fired, start, h * decay_m + x_s * gain)
        x_m, x_s = choose(fired, start_m, x_m * decay_m), choose(fired, start_s, x_s * decay_s)
        if t % PASSES == 0:
            tail = choose(above(tail, tiny), tail, like)
            x_m, x_s = choose(above(x_m, tiny), x_m, like), choose(above(x_s, tiny), x_s, like)


@part
def strsbp_slope(like: Any, readout: Readout, words: Words, b: int, w: int, base: int, stride: int) -> None:
    """Word w of sample b of `reference.time.strsbp_slope`; q is as in `strsbp_readout`, dq / tau_s."""
    lif, values, by_s = readout.rule.lif, readout.values, readout.rule.number == STRSBP_BY_TAU_S
    decay_m, decay_s, rise = splat(lif.decay_m, like), splat(lif.decay_s, like), splat(lif.rise, like)
    fall, rate_s = splat(-lif.rise, like), splat(lif.rise * lif.rise, like)
    rate_m = splat((np.float32(1) - lif.decay_m) * (np.float32(1) - lif.decay_m), like)
    tiny, steps = splat(TINY, like), words.shape[1]
    q, p, slope_q, slope_p = like, like, like, like
    store(values, base + (steps - 1) * stride, like)
    for t in range(steps - 1, 0, -1):
        fired, held = words[b, t, w], held_bits(words, b, t, w, lif.t_ref)
        q = choose(held, like, choose(fired, rise, q))
        if by_s:
            slope_p = slope_p * decay_s + p * rate_s + q * fall
        else:
            slope_q = choose(held | fired, like, slope_q)
            slope_p = slope_p * decay_s + slope_q
            slope_q = slope_q * decay_m + q * rate_m
        p = p * decay_s + q
        store(values, base + (t - 1) * stride, slope_p)
        q = q * decay_m
        if t % PASSES == 0:
            slope_p, slope_q = choose(above(p, tiny), slope_p, like), choose(above(q, tiny), slope_q, like)
            p, q = choose(above(p, tiny), p, like), choose(above(q, tiny), q, like)


@part
def hm2bp_slope(like: Any, readout: Readout, words: Words, b: int, w: int, base: int, stride: int) -> None:
    """Word w of sample b of `reference.time.hm2bp_slope`.

    A forward scan writes the derivative of the kernel before each spike, from its table, since a recursion would lose
    what nearly cancels. It notes in `changes` where a tail begins and ends, and in their second half the same of the
    kernel itself, `grown`, which the tails by tau_s need. A backward scan adds the tails.
    """
    previous, values, changes, steps = readout.previous, readout.values, readout.changes, words.shape[1]
    constants, rate = readout.rule.hm2bp, readout.rule.lif.rise * readout.rule.lif.rise
    window, decay, by_s = constants.window, constants.decay_s, readout.rule.number == HM2BP_BY_TAU_S
    for t in range(steps):
        store(values, base + t * stride, like)
        store(changes, 64 * t, like)
        store(changes, 64 * (steps + t), like)
    for i in range(previous.shape[0]):
        previous[i] = -1
    for last in range(steps):
        word = words[b, last, w]
        while word != np.uint64(0):
            i = lowest_bit(word)
            word &= word - np.uint64(1)
            first, begin = previous[i], max(last - window, 0)
            for t in range(max(first, begin, 1), last):
                values[base + t * stride + i] = constants.kernel[last - t]
            if first > begin:
                height, age = constants.kernel[last - first], np.float32(first - begin)
                other = constants.aged[last - first] if by_s else np.float32(0)
                left = constants.falls[first - begin]
                changes[64 * first + i] += height
                changes[64 * begin + i] -= (height + other * age * rate) * left
                changes[64 * (steps + first) + i] += other
                changes[64 * (steps + begin) + i] -= other * left
            previous[i] = last
    decay_s, by_age, tiny = splat(decay, like), splat(rate, like), splat(TINY, like)
    tail, grown = like, like
    for t in range(steps - 1, 0, -1):
        place = base + t * stride
        store(values, place, load(values, place, like) + tail)
        grown = (grown + load(changes, 64 * (steps + t), like)) * decay_s
        tail = (tail + load(changes, 64 * t, like)) * decay_s + grown * by_age
        grown = choose(above(grown, tiny), grown, like)
        tail = choose(above(tail, tiny) | above(like - tail, tiny), tail, like)


@part
def held_after(words: Words, b: int, t: int, w: int, t_ref: int) -> np.uint64:
    """Bits of the neurons of word w that fire in the t_ref steps after t."""
    held = np.uint64(0)
    for lag in range(1, min(t_ref, words.shape[1] - 1 - t) + 1):
        held |= words[b, t + lag, w]
    return held


@part
def read(like: Any, readout: Readout, words: Words, b: int, w: int, base: int, stride: int) -> None:
    """The readout of a block of neurons by the rule of `readout`."""
    number = readout.rule.number
    if number == STRSBP:
        strsbp_readout(like, readout, words, b, w, base, stride)
    elif number == HM2BP:
        hm2bp_readout(like, readout, words, b, w, base, stride)
    elif number in (STRSBP_BY_TAU_M, STRSBP_BY_TAU_S):
        strsbp_slope(like, readout, words, b, w, base, stride)
    else:
        hm2bp_slope(like, readout, words, b, w, base, stride)


read_block = in_64_32_or_16(read)


@part
def read_groups(readout: Readout, bits: Words, count: int) -> int:
    """Readouts of the first `count` groups of 16 lanes of `bits` (1, T, 1); returns the lanes of a row of values."""
    width = GROUP if count == 1 else (2 * GROUP if count == 2 else 4 * GROUP)
    read_block(width, readout, bits, 0, 0, 0, width)
    return width
