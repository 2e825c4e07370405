"""Compiled Bernoulli draws: each bit of a neuron's train is set with the neuron's probability.

For a constant probability, 64 steps are drawn at a time. A probability m / 2^L takes a chain of L random words, from
the lowest binary digit of m to the highest. If the digit is 1, `or` with the next word halves the probability and adds
a half. If it is 0, `and` halves it. So a word costs the same for every probability. For a probability that changes,
each step compares L random bits with m. The arithmetic uses whole numbers and gives the same bits on every machine.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun.compiled.jit import Words, jit, part
from snnrun.compiled.splitmix import STEP, mix
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import transpose_bits

Levels = NDArray[np.int32]

# L: probabilities are rounded to multiples of 2^-24.
DIGITS = 24
ALWAYS = 1 << DIGITS


@part
def stream_of(keys: Any, b: int) -> Any:
    """The stream that the keys of sample b name."""
    key = np.uint64(0)
    for k in range(keys.shape[1]):
        key = mix(key + STEP + np.uint64(keys[b, k]))
    return key


@partial(jit, memory=True)  # LLVM knows that arrays made here do not overlap, so it vectorises loops over neurons
def draw(levels: Levels, keys: NDArray[np.int64], first_step: int, words: Words, turn: Turn) -> None:
    """Draw the samples of a turn, each neuron with one probability at all steps.

    `levels` (B, N) has the probability of each neuron in units of 2^-L. `keys` (B, 3) name the stream of each sample.
    `words` (B, T, W) gets the bits, from `first_step` on. Every neuron has its own stream, used from the first step on,
    so fewer steps give the beginning of the same train.
    """
    steps, width = words.shape[1], words.shape[2]
    neurons = levels.shape[1]
    # Of the active neurons of a word: their streams, their words so far, their numbers, their probabilities.
    lane, bits = np.empty(64, np.uint64), np.empty(64, np.uint64)
    place, level = np.empty(64, np.int64), np.empty(64, np.int64)
    block = np.empty(64, np.uint64)
    while True:
        b = take(turn)
        if b == NONE:
            return
        for t in range(steps):
            for w in range(width):
                words[b, t, w] = np.uint64(0)
        key = stream_of(keys, b)
        for w in range(width):
            active = 0
            for k in range(min(64, neurons - 64 * w)):
                p = np.int64(levels[b, 64 * w + k])
                if p > 0:
                    place[active], level[active] = k, p
                    lane[active] = mix(key + np.uint64(64 * w + k + 1) * STEP)
                    active += 1
            if active == 0:
                continue
            for span in range((steps - first_step + 63) // 64):
                for i in range(active):
                    bits[i] = np.uint64(0)
                for digit in range(DIGITS):
                    shift = np.uint64(span * DIGITS + digit + 1) * STEP
                    for i in range(active):
                        one = np.uint64(0) - np.uint64((level[i] >> digit) & 1)
                        word = mix(lane[i] + shift)
                        bits[i] = (word & (bits[i] | one)) | (bits[i] & one)
                for i in range(64):
                    block[i] = np.uint64(0)
                for i in range(active):
                    block[place[i]] = bits[i] if level[i] < ALWAYS else ~np.uint64(0)
                transpose_bits(block, 0)
                begin = first_step + 64 * span
                for k in range(min(64, steps - begin)):
                    words[b, begin + k, w] = block[k]


@partial(jit, memory=True)
def draw_series(levels: Levels, keys: NDArray[np.int64], first_step: int, words: Words, turn: Turn) -> None:
    """Draw the samples of a turn, each neuron with a probability that changes.

    `levels` (B, P, N) has the probabilities of each of P points, in units of 2^-L. Each point is held for an equal part
    of the T steps: step t shows point floor(t P / T). The rest is as in `draw`.
    """
    steps, width = words.shape[1], words.shape[2]
    points, neurons = levels.shape[1], levels.shape[2]
    while True:
        b = take(turn)
        if b == NONE:
            return
        key = stream_of(keys, b)
        for t in range(steps):
            point = t * points // steps
            for w in range(width):
                word = np.uint64(0)
                for k in range(min(64, neurons - 64 * w) if t >= first_step else 0):
                    level = np.int64(levels[b, point, 64 * w + k])
                    lane = mix(key + np.uint64(64 * w + k + 1) * STEP)
                    drawn = np.int64(mix(lane + np.uint64(t - first_step + 1) * STEP) >> np.uint64(64 - DIGITS))
                    word |= np.uint64(drawn < level) << np.uint64(k)
                words[b, t, w] = word
