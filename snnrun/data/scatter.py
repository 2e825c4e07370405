"""Spike trains whose spikes are dropped, jittered and moved: the compiled loop of `augment_spikes`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from snnrun.compiled.jit import Counts, Words, jit, part
from snnrun.compiled.splitmix import STEP, mix
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import lowest_bit

HALF = 32  # bits: the lower ones of a spike's word decide whether it is dropped, the upper ones how it is jittered


@part
def _drawn(key: Any, place: Any) -> Any:
    """The random word of a place in the stream of a key."""
    return mix(key + np.uint64(place + 1) * STEP)


@part
def _displacement(number: Any, below: Any) -> Any:
    """The place of a number of 32 bits in the ascending table `below` (2R + 1,), minus R."""
    low, high = 0, len(below) - 1
    while low < high:
        middle = (low + high) // 2
        if number < below[middle]:
            high = middle
        else:
            low = middle + 1
    return low - len(below) // 2


@part
def _moved(n: Any, neurons: Any, rows: Any, columns: Any, move: Any) -> Any:
    """Where a channel goes; -1 if it leaves the sample. Without rows the channels are a line, else images."""
    if rows == 0:
        n += move[1]
        return n if 0 <= n < neurons else -1
    plane, inside = n // (rows * columns), n % (rows * columns)
    r, k = inside // columns + move[2], inside % columns + move[3]
    if not (0 <= r < rows and 0 <= k < columns):
        return -1
    return (plane * rows + r) * columns + (columns - 1 - k if move[4] else k)


@partial(jit, exact=True)
def scatter(
    samples: Words,
    keys: Words,
    moves: Counts,
    dropped: int,
    below: Counts,
    neurons: int,
    rows: int,
    columns: int,
    shown: Words,
    turn: Turn,
) -> None:
    """Write the samples of a turn, bits (B, T, W), into `shown` (B, T, W), which is cleared first.

    `keys` (B,) name the stream of each sample. `moves` (B, 6) has by how many steps, channels, rows and columns all of
    a sample moves, whether it is mirrored, and what its times are multiplied by, in units of 2^-32. A spike is dropped
    if the lower half of its word is less than `dropped`. `below` (2R + 1,) has the cumulative probabilities of the
    displacements -R to R in units of 2^-32. `rows` is 0 if the channels are not those of images.
    """
    steps, width = samples.shape[1], samples.shape[2]
    low = np.uint64((1 << HALF) - 1)
    random = dropped > 0 or len(below) > 1
    while True:
        b = take(turn)
        if b == NONE:
            return
        for t in range(steps):
            for w in range(width):
                shown[b, t, w] = np.uint64(0)
        move = moves[b]
        for t in range(steps):
            for w in range(width):
                rest = samples[b, t, w]
                while rest != 0:
                    n = 64 * w + np.int64(lowest_bit(rest))
                    rest &= rest - np.uint64(1)
                    when = ((t * move[5] + (1 << (HALF - 1))) >> HALF) + move[0]
                    if random:
                        word = _drawn(keys[b], t * 64 * width + n)
                        if np.int64(word & low) < dropped:
                            continue
                        when += _displacement(np.int64(word >> np.uint64(HALF)), below)
                    where = _moved(n, neurons, rows, columns, move)
                    if where >= 0 and 0 <= when < steps:
                        shown[b, when, where // 64] |= np.uint64(1) << np.uint64(where % 64)
