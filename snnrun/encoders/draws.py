"""Compiled Bernoulli draws, 64 steps at a time: each bit of a neuron's word is set with the neuron's probability.

A probability m / 2^L takes a chain of L random words, from the lowest binary digit of m to the highest. If the digit is
1, `or` with the next word halves the probability and adds a half. If it is 0, `and` halves it. So a word costs the same
for every probability. The arithmetic uses whole numbers and gives the same bits on every machine.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrun.compiled.jit import Words, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import transpose_bits

# L: probabilities are rounded to multiples of 2^-24.
DIGITS = 24
ALWAYS = 1 << DIGITS

# SplitMix64 (Steele, Lea and Flood 2014): the numbers of a stream are mixed values of an arithmetic progression.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@part
def mix(x: Any) -> Any:
    """SplitMix64's output function."""
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    return x ^ (x >> np.uint64(31))


@partial(jit, memory=True)  # LLVM knows that arrays made here do not overlap, so it vectorises loops over neurons
def draw(
    samples: NDArray[np.uint8],
    levels: NDArray[np.int64],
    keys: NDArray[np.int64],
    first_step: int,
    words: Words,
    turn: Turn,
) -> None:
    """Draw the samples of a turn.

    `samples` (B, N) are pixels. `levels` (256,) has the probability of each value in units of 2^-L. `keys` (B, 3) name
    the stream of each sample. `words` (B, T, W) gets the bits, from `first_step` on. Every neuron has its own stream,
    used from the first step on, so fewer steps give the beginning of the same train.
    """
    steps, width = words.shape[1], words.shape[2]
    neurons = samples.shape[1]
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
        key = np.uint64(0)
        for k in range(keys.shape[1]):
            key = mix(key + _STEP + np.uint64(keys[b, k]))
        for w in range(width):
            active = 0
            for k in range(min(64, neurons - 64 * w)):
                p = levels[samples[b, 64 * w + k]]
                if p > 0:
                    place[active], level[active] = k, p
                    lane[active] = mix(key + np.uint64(64 * w + k + 1) * _STEP)
                    active += 1
            if active == 0:
                continue
            for span in range((steps - first_step + 63) // 64):
                for i in range(active):
                    bits[i] = np.uint64(0)
                for digit in range(DIGITS):
                    shift = np.uint64(span * DIGITS + digit + 1) * _STEP
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
