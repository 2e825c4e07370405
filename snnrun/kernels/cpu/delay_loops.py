"""The compiled loops of `reference.delays`: one pass over the spikes, or over the errors."""

from __future__ import annotations

from functools import partial

import numpy as np

from snnrun.compiled.jit import Counts, Floats, Words, jit
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import lowest_bit


@partial(jit, exact=True)
def delayed(words: Words, steps: Counts, later: Words, turn: Turn) -> None:
    """Set the bits in `later` (B, T, W), which has none, of the samples of a turn, bits (B, T, W), `steps` (I,) on."""
    last, width = words.shape[1], words.shape[2]
    while True:
        b = take(turn)
        if b == NONE:
            return
        for t in range(last):
            for w in range(width):
                rest = words[b, t, w]
                while rest != 0:
                    n = np.int64(lowest_bit(rest))
                    rest &= rest - np.uint64(1)
                    to = t + steps[64 * w + n]
                    if 0 <= to < last:
                        later[b, to, w] |= np.uint64(1) << np.uint64(n)


@partial(jit, exact=True)
def advanced(errors: Floats, steps: Counts, earlier: Floats, turn: Turn) -> None:
    """Write to `earlier` (B, T, I) the errors (B, T, I) of the samples of a turn, `steps` (I,) before; 0 elsewhere."""
    last, inputs = errors.shape[1], errors.shape[2]
    while True:
        b = take(turn)
        if b == NONE:
            return
        for t in range(last):
            for j in range(inputs):
                source = t + steps[j]
                inside = 0 <= source < last
                earlier[b, t, j] = errors[b, source, j] if inside else np.float32(0)


@partial(jit, exact=True)
def delay_errors(words: Words, steps: Counts, errors: Floats, total: Floats, turn: Turn) -> None:
    """Add to `total` (B, I), which is 0, what the samples of a turn give, see `reference.delay_errors`."""
    last, width = words.shape[1], words.shape[2]
    while True:
        b = take(turn)
        if b == NONE:
            return
        for t in range(last):
            for w in range(width):
                rest = words[b, t, w]
                while rest != 0:
                    j = 64 * w + np.int64(lowest_bit(rest))
                    rest &= rest - np.uint64(1)
                    after, before = t + steps[j] + 1, t + steps[j] - 1
                    if 0 <= after < last:
                        total[b, j] += np.float32(0.5) * errors[b, after, j]
                    if 0 <= before < last:
                        total[b, j] -= np.float32(0.5) * errors[b, before, j]
