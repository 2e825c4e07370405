"""Input spikes from the side that has fewer: the steps in which an input is not as it usually is.

An input that fires in more than half of the steps *usually* fires. A loop adds its row once for all steps and takes it
away in those in which it is silent. Images as firing rates have many such inputs: a white pixel fires in every step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from snnrun.compiled.jit import Indices, Times, Words, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import count_bits, lowest_bit
from snnrun.kernels.cpu.spike_loops import ROOM, active_bits, turn_span, valid_bits

# Words that count the spikes of 64 inputs at once, a bit of each number to a word: enough for 2**16 steps.
PLANES = 17


class Exceptions(NamedTuple):
    """Inputs by what they usually do and when not: `usual` (B, W) has the bits of those that usually fire.

    `times` and `first` are as in `Trains`, but of the steps in which an input is not as usual.
    """

    times: Times
    first: Indices
    usual: Words


class Steps(NamedTuple):
    """Room for `list_exceptions`: `inputs` for a sample's spikes, `begin` (2 T + 1,), `usual` (W,) and `planes`."""

    inputs: Times
    begin: Indices
    usual: Words
    planes: Words


def room_for_steps(words: Words) -> Steps:
    """Room for samples of inputs (B, T, W); of that for spikes only as much as there are is touched."""
    _, steps, width = words.shape
    return Steps(
        inputs=np.empty(64 * width * steps + ROOM, np.uint16),
        begin=np.empty(2 * steps + 1, np.int32),
        usual=np.empty(width, np.uint64),
        planes=np.empty(PLANES, np.uint64),
    )


def room_for_sides(words: Words) -> tuple[Words, Words]:
    """Room for `split_sides` of samples of inputs (B, T, W)."""
    return np.empty((1, 2 * words.shape[1] + 1, words.shape[2]), np.uint64), np.empty(PLANES, np.uint64)


@part
def added(x: np.uint64, y: np.uint64, z: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Sum and carry of three bits, for 64 of them at once."""
    either = x ^ y
    return either ^ z, (x & y) | (either & z)


@part
def counted(planes: Words, low: int, size: int, carry: np.uint64) -> np.uint64:
    """Add bits that count 2**low each to the counters; what they carry beyond the last plane."""
    for p in range(low, size):
        before = planes[p]
        planes[p] = before ^ carry
        carry &= before
    return carry


@part
def usual_bits(words: Words, b: int, w: int, planes: Words) -> np.uint64:
    """Bits of the inputs of word w whose spikes are more than their silent steps and one more.

    The counters of 64 inputs begin so high that the spike which decides carries beyond their last bit.
    """
    steps, size = words.shape[1], 0
    while 1 << size <= steps:
        size += 1
    start = (1 << size) - ((steps + 1) // 2 + 1)
    for p in range(size):
        planes[p] = ~np.uint64(0) if start >> p & 1 else np.uint64(0)
    usual = np.uint64(0)
    fours = steps - steps % 4
    for t in range(0, fours, 4):
        planes[0], first = added(planes[0], words[b, t, w], words[b, t + 1, w])
        planes[0], second = added(planes[0], words[b, t + 2, w], words[b, t + 3, w])
        planes[1], carry = added(planes[1], first, second)
        usual |= counted(planes, 2, size, carry)
    for t in range(fours, steps):
        usual |= counted(planes, 0, size, words[b, t, w])
    return usual


@part
def list_few(word: np.uint64, base: int, out: Times, count: int) -> int:
    """`list_bits` for words of which most have between one and four bits."""
    place = count
    stop: int = count + count_bits(word)
    while True:
        for k in range(4):
            out[place + k] = base + lowest_bit(word)
            word &= word - np.uint64(1)
        place += 4
        if place >= stop:
            return stop


@part
def list_exceptions(words: Words, b: int, room: Steps) -> None:
    """List the inputs of sample b: first those that usually fire, inputs[:begin[0]].

    Of step t then those that fire unusually, from begin[2 t] on, and those that are silent unusually, from
    begin[2 t + 1] on.
    """
    inputs, begin, usual, count = room.inputs, room.begin, room.usual, 0
    for w in range(words.shape[2]):
        usual[w] = usual_bits(words, b, w, room.planes)
        count = list_few(usual[w], 64 * w, inputs, count)
    begin[0] = count
    for t in range(words.shape[1]):
        for w in range(words.shape[2]):
            count = list_few(words[b, t, w] & ~usual[w], 64 * w, inputs, count)
        begin[2 * t + 1] = count
        if begin[0]:
            for w in range(words.shape[2]):
                count = list_few(usual[w] & ~words[b, t, w], 64 * w, inputs, count)
        begin[2 * t + 2] = count


@part
def split_sides(words: Words, b: int, sides: Words, planes: Words) -> None:
    """Write the inputs of sample b to `sides` (1, 2 T + 1, W) as steps of their own.

    First those that usually fire; of step t then those that fire unusually and those that are silent unusually.
    """
    for w in range(words.shape[2]):
        usual = usual_bits(words, b, w, planes)
        sides[0, 0, w] = usual
        for t in range(words.shape[1]):
            sides[0, 2 * t + 1, w] = words[b, t, w] & ~usual
            sides[0, 2 * t + 2, w] = usual & ~words[b, t, w]


@jit
def sort_exceptions(words: Words, exceptions: Exceptions, block: Words, planes: Words, turn: Turn) -> None:
    """Write the exceptions of the samples of a turn, input by input; those of sample b begin at the given first[b, 0].

    They are at most as many as spikes. Scratch: `block`, a word for each step, rounded up to 64, and `planes`.
    """
    times, first = exceptions.times, exceptions.first
    steps, inputs = words.shape[1], first.shape[1] - 1
    spans = (steps + 63) // 64
    while True:
        b = take(turn)
        if b == NONE:
            return
        count = first[b, 0]
        for w in range(words.shape[2]):
            active, usual = active_bits(words, b, w), usual_bits(words, b, w, planes)
            exceptions.usual[b, w] = usual
            if active != np.uint64(0):
                for span in range(spans):
                    turn_span(words, b, span, w, block, 64 * span)
            for k in range(min(64, inputs - 64 * w)):
                if active >> np.uint64(k) & np.uint64(1):
                    flip = ~np.uint64(0) if usual >> np.uint64(k) & np.uint64(1) else np.uint64(0)
                    for span in range(spans):
                        bits = (block[64 * span + k] ^ flip) & valid_bits(steps - 64 * span)
                        count = list_few(bits, 64 * span, times, count)
                first[b, 64 * w + k + 1] = count
