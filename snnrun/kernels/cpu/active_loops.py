"""Finds the neurons that fire in a sample. The others have no S-PSP; the loops over pairs of neurons leave them out.

The spikes of the neurons that fire are closed up: bit n of the closed words is the n-th of them in ascending order. So
their readouts fill whole blocks. The results of a block are then spread over the lanes of its neurons again, see
`vector.expand`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Times, Words, part
from snnrun.compiled.vector import count_bits, lowest_bit, transpose_bits
from snnrun.kernels.cpu.spike_loops import list_bits, turn_span

LANES = 16  # a group of neurons that a block is spread over at a time


class Active(NamedTuple):
    """The neurons that fire in a sample, and the scratch to find them.

    `neuron` (64 W,) has the neurons that fire, in ascending order, `fires` (W,) their bits and `words` (1, T, W) their
    spikes, closed up. `lanes` and `begin` (4 W,) say for each group which of its neurons belong to a block and where
    they begin in the block. `trains` (S, 64 W) has, for each of S spans of 64 steps, a word for each neuron; words of
    neurons that never fire are not written. `turned` (64,) is scratch.
    """

    neuron: Indices
    fires: Words
    words: Words
    lanes: Words
    begin: Indices
    trains: Words
    turned: Words


def room_for_active(steps: int, words: int) -> Active:
    """Room for the neurons of so many words in so many steps."""
    return Active(
        neuron=np.empty(64 * words, np.int32),
        fires=np.empty(words, np.uint64),
        words=np.empty((1, steps, words), np.uint64),
        lanes=np.empty(4 * words, np.uint64),
        begin=np.empty(4 * words, np.int32),
        trains=np.empty(((steps + 63) // 64, 64 * words), np.uint64),
        turned=np.empty(64, np.uint64),
    )


@part
def close_up(words: Words, b: int, active: Active) -> int:
    """Find the neurons that fire in sample b of `words` (B, T, W), close up their spikes and return their number."""
    count = 0
    for w in range(words.shape[2]):
        fires = np.uint64(0)
        for t in range(words.shape[1]):
            fires |= words[b, t, w]
        active.fires[w] = fires
        while fires != np.uint64(0):
            active.neuron[count] = 64 * w + lowest_bit(fires)
            fires &= fires - np.uint64(1)
            count += 1
    for span in range((words.shape[1] + 63) // 64):
        for w in range(words.shape[2]):
            if active.fires[w] != np.uint64(0):
                turn_span(words, b, span, w, active.trains[span], 64 * w)
        for w in range(words.shape[2]):
            for k in range(64):
                n = 64 * w + k
                active.turned[k] = active.trains[span, active.neuron[n]] if n < count else np.uint64(0)
            if 64 * w < count:
                transpose_bits(active.turned, 0)
            for k in range(min(64, words.shape[1] - 64 * span)):
                active.words[0, 64 * span + k, w] = active.turned[k]
    return count


@part
def list_train(active: Active, neuron: int, out: Times) -> int:
    """Write the steps in which an active neuron fires to `out`, with room for four more; return their number."""
    count = 0
    for span in range(active.trains.shape[0]):
        count = list_bits(active.trains[span, neuron], 64 * span, out, count)
    return count


@part
def spread(active: Active, start: int, stop: int) -> tuple[int, int]:
    """Set `lanes` and `begin` for the block of the active neurons start ... stop; return the range of its groups."""
    lowest, highest = active.neuron[start], active.neuron[stop - 1]
    at = 0
    for group in range(lowest // LANES, highest // LANES + 1):
        lanes = (active.fires[group // 4] >> np.uint64(LANES * (group % 4))) & np.uint64(0xFFFF)
        if group == lowest // LANES:
            lanes &= np.uint64(0xFFFF) << np.uint64(lowest % LANES)
        if group == highest // LANES:
            lanes &= np.uint64(0xFFFF) >> np.uint64(LANES - 1 - highest % LANES)
        active.lanes[group], active.begin[group] = lanes, at
        at += count_bits(lanes)
    return lowest // LANES, highest // LANES + 1


@part
def idle(factor: Floats, b: int) -> bool:
    """Whether a sample's row of factors (B, P) is all 0, or is absent as in (B, 0)."""
    used = False
    for i in range(factor.shape[1]):
        used |= factor[b, i] != np.float32(0)
    return not used


@part
def width_of(neurons: int) -> int:
    """The narrowest block for so many neurons, 64 for more."""
    return 16 if neurons <= 16 else (32 if neurons <= 32 else 64)
