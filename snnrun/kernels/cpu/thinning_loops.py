"""The compiled loops of `reference.thinning`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from snnrun.compiled.jit import Floats, Words, jit, part
from snnrun.compiled.splitmix import STEP, mix
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import lowest_bit

_LOWER = np.uint64(2**32 - 1)


@part
def _lost(key: Any, number: Any, limit: Any) -> Any:
    """Whether a place loses its spike."""
    return np.int64(mix(key + np.uint64(number + 1) * STEP) & _LOWER) < limit


@partial(jit, exact=True)
def thin(words: Words, keys: Words, limit: int, left: Words, turn: Turn) -> None:
    """Write to `left` (B, T, W) what is left of the samples of a turn, bits (B, T, W), with keys (B,)."""
    steps, width = words.shape[1], words.shape[2]
    while True:
        b = take(turn)
        if b == NONE:
            return
        for t in range(steps):
            for w in range(width):
                rest, some = words[b, t, w], np.uint64(0)
                while rest != 0:
                    n = np.int64(lowest_bit(rest))
                    rest &= rest - np.uint64(1)
                    if not _lost(keys[b], 64 * (t * width + w) + n, limit):
                        some |= np.uint64(1) << np.uint64(n)
                left[b, t, w] = some


@partial(jit, exact=True)
def thin_gradient(gradient: Floats, keys: Words, limit: int, left: Floats, turn: Turn) -> None:
    """Write to `left` (B, T, N) the gradient (B, T, N) of the samples of a turn, 0 where a place is lost."""
    steps, neurons = gradient.shape[1], gradient.shape[2]
    width = (neurons + 63) // 64
    while True:
        b = take(turn)
        if b == NONE:
            return
        for t in range(steps):
            for n in range(neurons):
                lost = _lost(keys[b], 64 * t * width + n, limit)
                left[b, t, n] = np.float32(0) if lost else gradient[b, t, n]
