"""Events become spikes: a bit for every step and channel in which there is one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from snnrun.compiled.packed_arrays import BITS, words
from snnrun.data.spikes_file import Encoded


def binned(step: NDArray[np.int64], channel: NDArray[np.int64], steps: int, channels: int) -> Encoded:
    """Bits of spikes (T, W) of events, and how many of these come after the last step or share a bit with another.

    Args:
        step: Of each event, from 0 up, shape (E,).
        channel: Of each event, from 0 to `channels` - 1, shape (E,).
        steps: T.
        channels: N.
    """
    within = step < steps
    seen, at = step[within], channel[within]
    bits = np.zeros((steps, words(channels)), np.uint64)
    np.bitwise_or.at(bits, (seen, at // BITS), np.uint64(1) << (at % BITS).astype(np.uint64))
    merged = len(seen) - int(np.bitwise_count(bits).sum())
    return Encoded(bits.view(np.int64), len(step) - len(seen), merged, len(step))
