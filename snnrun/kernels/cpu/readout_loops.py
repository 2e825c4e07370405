"""Readouts: what an input spike at each step adds to the S-PSP of each neuron of a block, for both rules.

And to the derivatives of the S-PSP by a time constant.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from snnrun.compiled.jit import Floats, Indices, Words, in_64_32_or_16, in_64_or_32, part
from snnrun.compiled.vector import above, choose, lanes, load, lowest_bit, splat, store
from snnrun.kernels.cpu.constants import HM2BP, STRSBP, STRSBP_BY_TAU_M, STRSBP_BY_TAU_S, RuleConstants
from snnrun.kernels.cpu.spike_loops import held_bits

# A filter below this counts as empty, because a processor is tens of times slower on denormal numbers.
TINY = np.float32(1e-30)
# It is looked for after so many steps: a filter that decays to denormal numbers in fewer is soon 0.
PASSES = 16


class Readout(NamedTuple):
    """A readout: its rule, its `values` row by row, and `previous` (64,), the last spike of each neuron of a block.

    `cuts` (2 T,) is scratch of one neuron.
    """

    rule: RuleConstants
    previous: Indices
    values: Floats
    cuts: Floats


def room_for_readout(rule: RuleConstants, steps: int, width: int) -> Readout:
    """Room for the readout of `width` neurons, which begins at the start of a cache line."""
    return Readout(rule, np.empty(64, np.int32), torch.empty(steps * width).numpy(), np.empty(2 * steps, np.float32))


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
                    decay = constants.decay_s ** np.float32(first - begin)
                    values[base + begin * stride + i] = kernel[last - first] * decay
                previous[i] = last
    h, x_m, x_s, tail = like, like, like, like
    for t in range(steps - 1, 0, -1):
        place = base + t * stride
        h = choose(held_after(words, b, t, w, t_ref), like, choose(above(x_m, end), h, like))
        cut = load(values, place, like)
        store(values, place, h + tail)
        fired = words[b, t, w]
        tail = (tail + choose(fired, h, like) - cut) * decay_s
        tail = choose(above(tail, tiny), tail, like)
        h = choose(fired, start, h * decay_m + x_s * gain)
        x_m, x_s = choose(fired, start_m, x_m * decay_m), choose(fired, start_s, x_s * decay_s)
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
    """Word w of sample b of `reference.time.hm2bp_slope`, neuron by neuron.

    `tail` has what the tails add, `grown` those of the kernel itself, where they are asked for; `cuts` what both lose
    at each step, the ends of windows.
    """
    constants, values, cuts, steps = readout.rule.hm2bp, readout.values, readout.cuts, words.shape[1]
    decay, rate, nothing = constants.decay_s, readout.rule.lif.rise * readout.rule.lif.rise, np.float32(0)
    for i in range(lanes(like)):
        following, tail, grown = -1, nothing, nothing
        for t in range(2 * steps):
            cuts[t] = nothing
        values[base + i] = nothing
        for t in range(steps - 1, 0, -1):
            height = constants.kernel[following - t] if following >= 0 else nothing
            values[base + t * stride + i] = height + tail
            tail, grown = tail - cuts[t], grown - cuts[steps + t]
            if words[b, t, w] >> np.uint64(i) & np.uint64(1):
                begin = max(following - constants.window, 0)
                if following >= 0 and begin < t:
                    age = np.float32(t - begin)
                    other = constants.aged[following - t] if constants.aged.shape[0] else nothing
                    tail, grown, left = tail + height, grown + other, decay**age
                    cuts[begin], cuts[steps + begin] = (height + other * age * rate) * left, other * left
                following = t
            grown = grown * decay if abs(grown) > TINY else nothing
            tail = tail * decay + grown * rate if abs(tail) > TINY else grown * rate


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
read_wide_block = in_64_or_32(read)
