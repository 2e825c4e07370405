"""Compiled loops that write spike trains without chance: evenly spaced, once, or at the crossings of a series.

Their arithmetic is exact or rounded alike everywhere, so every machine gives the same bits.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from snnrun.compiled.jit import Floats, Words, jit, part
from snnrun.compiled.splitmix import STEP, mix
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.encoders.draws import ALWAYS, DIGITS, Levels, stream_of


@part
def clear(words: Words, b: int) -> None:
    """Take all spikes of sample b away."""
    for t in range(words.shape[1]):
        for w in range(words.shape[2]):
            words[b, t, w] = np.uint64(0)


@partial(jit, memory=True)  # see `draws.draw`
def regular(levels: Levels, keys: NDArray[np.int64], words: Words, turn: Turn) -> None:
    """Write evenly spaced spikes for the samples of a turn: a neuron fires whenever the sum of its rates passes 1.

    `levels` (B, P, N) has the rates of each of P points, in spikes per step in units of 2^-L, at most 1. Step t shows
    point floor(t P / T). `keys` (B, 3) name the stream of each sample, from which each neuron draws where it begins
    between two spikes. `words` (B, T, W) gets the bits.
    """
    (steps, width), (points, neurons) = words.shape[1:], levels.shape[1:]
    phase, rate = np.empty(64, np.uint64), np.empty(64, np.uint64)
    while True:
        b = take(turn)
        if b == NONE:
            return
        key = stream_of(keys, b)
        for w in range(width):
            inside = min(64, neurons - 64 * w)
            for k in range(64):
                lane = mix(key + np.uint64(64 * w + k + 1) * STEP)
                phase[k] = mix(lane + STEP) >> np.uint64(64 - DIGITS)
                rate[k] = np.uint64(0)
            shown = -1
            for t in range(steps):
                point = t * points // steps
                if point != shown:
                    shown = point
                    for k in range(inside):
                        rate[k] = np.uint64(levels[b, point, 64 * w + k])
                word = np.uint64(0)
                for k in range(64):
                    now = phase[k] + rate[k]
                    word |= (now >> np.uint64(DIGITS)) << np.uint64(k)
                    phase[k] = now & np.uint64(ALWAYS - 1)
                words[b, t, w] = word


@jit
def once(times: NDArray[np.int32], words: Words, turn: Turn) -> None:
    """Write one spike for each neuron of the samples of a turn, at `times` (B, N); none where that is negative."""
    while True:
        b = take(turn)
        if b == NONE:
            return
        clear(words, b)
        for n in range(times.shape[1]):
            if times[b, n] >= 0:
                words[b, times[b, n], n // 64] |= np.uint64(1) << np.uint64(n % 64)


@partial(jit, exact=True)
def crossings(series: Floats, threshold: float, level: NDArray[np.float64], words: Words, turn: Turn) -> None:
    """Write the spikes of `delta` for the samples of a turn.

    `series` (B, P, N); step t shows point floor(t P / T). Channel n has the neurons n, up, and N + n, down. Its level
    begins at the first point. In a step in which the value is `threshold` or more above or below the level, the level
    follows by one threshold and the neuron fires. A value that is NaN moves nothing. `level` (N,) is scratch.
    """
    steps, (points, channels) = words.shape[1], series.shape[1:]
    while True:
        b = take(turn)
        if b == NONE:
            return
        clear(words, b)
        for n in range(channels):
            level[n] = series[b, 0, n]
        for t in range(steps):
            point = t * points // steps
            for n in range(channels):
                off = series[b, point, n] - level[n]
                if off >= threshold:
                    level[n] += threshold
                    words[b, t, n // 64] |= np.uint64(1) << np.uint64(n % 64)
                elif -off >= threshold:
                    level[n] -= threshold
                    down = channels + n
                    words[b, t, down // 64] |= np.uint64(1) << np.uint64(down % 64)
