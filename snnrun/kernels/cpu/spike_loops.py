"""Loops over the bits of spikes: which neurons fire in a step, when a neuron fires, and how often."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from snnrun.compiled.jit import Counts, Floats, Indices, Times, Words, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import count_bits, lowest_bit, transpose_bits

# Lists are written four entries at a time, so up to so many places beyond their end may be written.
ROOM = 4


class Trains(NamedTuple):
    """Spike times of the inputs, see `sort_by_neuron`: `times` (spikes,), `first` (B, I + 1)."""

    times: Times
    first: Indices


class Listed(NamedTuple):
    """Room for `list_sparse`: `busy` (W,) for words that are not 0; `neurons` for those that fire, and ROOM more."""

    busy: Indices
    neurons: Indices


def room_to_list(words: int, spikes: int = 0) -> Listed:
    """Room for a step of so many words and for so many spikes."""
    return Listed(np.empty(words, np.int32), np.empty(max(64 * words, spikes) + ROOM, np.int32))


@part
def list_bits(word: np.uint64, base: int, out: Any, count: int) -> int:
    """Write base + the place of each bit of a word to `out`, from `count` on; return where they end.

    Four places are written at a time, even without a bit, since the processor would predict a branch for each wrong too
    often. So `out` needs room for four more than there are bits.
    """
    place = count
    stop: int = count + count_bits(word)
    while place < stop:
        for k in range(4):
            out[place + k] = base + lowest_bit(word)
            word &= word - np.uint64(1)
        place += 4
    return stop


@part
def list_spikes(words: Words, b: int, t: int, out: Times, count: int = 0) -> int:
    """Write the neurons that fire in step t of sample b to `out`, from `count` on; return where they end."""
    for w in range(words.shape[2]):
        count = list_bits(words[b, t, w], 64 * w, out, count)
    return count


@part
def list_sparse(words: Words, b: int, t: int, room: Listed, count: int = 0) -> int:
    """`list_spikes` to `room.neurons` for steps in which most words are 0: first finds the others, without a branch."""
    busy, out, found = room.busy, room.neurons, 0
    for w in range(words.shape[2]):
        busy[found] = w
        found += words[b, t, w] != np.uint64(0)
    for k in range(found):
        word, base = words[b, t, busy[k]], 64 * busy[k]
        place, count = count, count + count_bits(word)
        while True:
            for i in range(4):
                out[place + i] = base + lowest_bit(word)
                word &= word - np.uint64(1)
            place += 4
            if place >= count:
                break
    return count


@part
def held_bits(words: Words, b: int, t: int, w: int, t_ref: int) -> np.uint64:
    """Bits of the neurons of word w that fired in the t_ref steps before t."""
    if t_ref == 2 and t >= 2:  # the usual case, without a loop
        return np.uint64(words[b, t - 1, w] | words[b, t - 2, w])
    held = np.uint64(0)
    for lag in range(1, min(t_ref, t) + 1):
        held |= words[b, t - lag, w]
    return held


@part
def turn_span(words: Words, b: int, span: int, w: int, block: Words, place: int) -> None:
    """Write the spikes of word w from step 64 * span on to 64 words of `block`, from `place` on: one word a neuron."""
    rest = min(64, words.shape[1] - 64 * span)
    for k in range(64):
        block[place + k] = words[b, 64 * span + k, w] if k < rest else np.uint64(0)
    transpose_bits(block, place)


@jit
def total_spikes(words: Words, totals: Counts, turn: Turn) -> None:
    """Write the number of spikes of the samples of a turn to `totals` (B,)."""
    while True:
        b = take(turn)
        if b == NONE:
            return
        total = 0
        for t in range(words.shape[1]):
            for w in range(words.shape[2]):
                total += count_bits(words[b, t, w])
        totals[b] = total


@part
def count_sample(words: Words, b: int, block: Words, counts: Floats, neurons: int) -> None:
    """Write how often each neuron of sample b fires to counts[b]; `block` (64,) is scratch."""
    for w in range(words.shape[2]):
        inside = min(64, neurons - 64 * w)
        for k in range(inside):
            counts[b, 64 * w + k] = np.float32(0)
        for span in range((words.shape[1] + 63) // 64):
            turn_span(words, b, span, w, block, 0)
            for k in range(inside):
                counts[b, 64 * w + k] += np.float32(count_bits(block[k]))


@jit
def count_spikes(words: Words, block: Words, counts: Floats, turn: Turn) -> None:
    """The samples of a turn of `packed.count_spikes`; `counts` (B, N), `block` (64,) scratch."""
    while True:
        b = take(turn)
        if b == NONE:
            return
        count_sample(words, b, block, counts, counts.shape[1])


@part
def sort_sample(
    words: Words, b: int, low: int, high: int, times: Times, first: Indices, block: Words, neurons: int, count: int
) -> None:
    """Write the spike times of sample b of `words` (B, T, W), neuron by neuron, for the neurons of words low ... high.

    Those of neuron j go to times[first[j] ... first[j + 1]]; the first goes to times[count]. `times` needs room for
    four more than the spikes, see `list_bits`. `block` is scratch, a word for each step, rounded up to 64.
    """
    spans = (words.shape[1] + 63) // 64
    first[64 * low] = count
    for w in range(low, high):
        active = active_bits(words, b, w)
        if active != np.uint64(0):
            for span in range(spans):
                turn_span(words, b, span, w, block, 64 * span)
        for k in range(min(64, neurons - 64 * w)):
            if active >> np.uint64(k) & np.uint64(1):
                for span in range(spans):
                    count = list_bits(block[64 * span + k], 64 * span, times, count)
            first[64 * w + k + 1] = count


@part
def active_bits(words: Words, b: int, w: int) -> np.uint64:
    """Bits of the neurons of word w that fire at all."""
    active = np.uint64(0)
    for t in range(words.shape[1]):
        active |= words[b, t, w]
    return active


@jit
def sort_by_neuron(words: Words, times: Times, first: Indices, block: Words, turn: Turn) -> None:
    """`sort_sample` for all words of the samples of a turn; `first` is (B, N + 1), and first[b, 0] is given."""
    while True:
        b = take(turn)
        if b == NONE:
            return
        sort_sample(words, b, 0, words.shape[2], times, first[b], block, first.shape[1] - 1, first[b, 0])


@part
def valid_bits(neurons: int) -> np.uint64:
    """Bits of the first `neurons` of a word; all bits from 64 on."""
    return ~np.uint64(0) if neurons >= 64 else ~np.uint64(0) >> np.uint64(64 - neurons)


@part
def last_step(words: Words, b: int) -> int:
    """The last step of sample b with a spike, or -1."""
    for t in range(words.shape[1] - 1, -1, -1):
        for w in range(words.shape[2]):
            if words[b, t, w] != np.uint64(0):
                return t
    return -1
