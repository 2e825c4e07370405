"""Loops over the bits of spikes: who fires in a step, when a neuron fires, how often."""

from __future__ import annotations

import numpy as np

from snnrun.kernels.cpu.jit import Floats, Indices, Times, Words, jit, part
from snnrun.kernels.cpu.vector import count_bits, lowest_bit


@part
def list_spikes(words: Words, b: int, t: int, out: Times) -> int:
    """Write the neurons that fire in step t of sample b to `out`; return their number.

    Four places are written at a time, spikes or not: a branch for each would be guessed wrong too often. So `out` needs
    room for four more than neurons.
    """
    count = 0
    for w in range(words.shape[2]):
        word = words[b, t, w]
        place, stop = count, count + count_bits(word)
        count = stop
        while place < stop:
            for k in range(4):
                out[place + k] = 64 * w + lowest_bit(word)
                word &= word - np.uint64(1)
            place += 4
    return count


@part
def held_bits(words: Words, b: int, t: int, w: int, t_ref: int) -> np.uint64:
    """Bits of the neurons of word w that fired in the t_ref steps before t."""
    held = np.uint64(0)
    for lag in range(1, min(t_ref, t) + 1):
        held |= words[b, t - lag, w]
    return held


@part
def swap_squares(block: Words, row: int, width: int, mask: np.uint64) -> None:
    """Swap the two squares of `width` bits off the diagonal in every larger square of a 64 x 64 matrix of bits."""
    shift = np.uint64(width)
    for start in range(0, 64, 2 * width):
        for k in range(start, start + width):
            swap = ((block[row, k] >> shift) ^ block[row, k + width]) & mask
            block[row, k] ^= swap << shift
            block[row, k + width] ^= swap


@part
def transpose(block: Words, row: int) -> None:
    """Transpose the 64 x 64 bits of a row of words in place. The widths are constants, which makes them vectors."""
    swap_squares(block, row, 32, np.uint64(0x00000000FFFFFFFF))
    swap_squares(block, row, 16, np.uint64(0x0000FFFF0000FFFF))
    swap_squares(block, row, 8, np.uint64(0x00FF00FF00FF00FF))
    swap_squares(block, row, 4, np.uint64(0x0F0F0F0F0F0F0F0F))
    swap_squares(block, row, 2, np.uint64(0x3333333333333333))
    swap_squares(block, row, 1, np.uint64(0x5555555555555555))


@part
def turn_span(words: Words, b: int, span: int, w: int, block: Words, row: int) -> None:
    """Spikes of word w in steps 64 * span and on, to a row of `block`: one word a neuron, one bit a step."""
    rest = min(64, words.shape[1] - 64 * span)
    for k in range(64):
        block[row, k] = words[b, 64 * span + k, w] if k < rest else np.uint64(0)
    transpose(block, row)


@jit
def count_spikes(words: Words, block: Words, counts: Floats, start: int, stop: int) -> None:
    """Samples start ... stop of `packed.count_spikes`; `counts` (B, N) zero, `block` (1, 64) scratch."""
    neurons = counts.shape[1]
    for b in range(start, stop):
        for w in range(words.shape[2]):
            for span in range((words.shape[1] + 63) // 64):
                turn_span(words, b, span, w, block, 0)
                for k in range(min(64, neurons - 64 * w)):
                    counts[b, 64 * w + k] += np.float32(count_bits(block[0, k]))


@jit
def sort_by_neuron(words: Words, times: Times, first: Indices, block: Words, start: int, stop: int) -> None:
    """Spike times neuron by neuron, for samples start ... stop.

    `words` (B, T, W); those of neuron j of sample b go to times[first[b, j] ... first[b, j + 1]], where first[b, 0] is
    given. `block` (T / 64 + 1, 64) is scratch.
    """
    neurons, spans = first.shape[1] - 1, (words.shape[1] + 63) // 64
    for b in range(start, stop):
        place = first[b, 0]
        for w in range(words.shape[2]):
            for span in range(spans):
                turn_span(words, b, span, w, block, span)
            for k in range(min(64, neurons - 64 * w)):
                for span in range(spans):
                    word = block[span, k]
                    while word != np.uint64(0):
                        times[place] = 64 * span + lowest_bit(word)
                        place += 1
                        word &= word - np.uint64(1)
                first[b, 64 * w + k + 1] = place


@part
def valid_bits(neurons: int) -> np.uint64:
    """Bits of the first neurons of a word, of all from 64 on."""
    return ~np.uint64(0) if neurons >= 64 else ~np.uint64(0) >> np.uint64(64 - neurons)


@part
def last_step(words: Words, b: int) -> int:
    """The last step of sample b with a spike, or -1."""
    for t in range(words.shape[1] - 1, -1, -1):
        for w in range(words.shape[2]):
            if words[b, t, w] != np.uint64(0):
                return t
    return -1
