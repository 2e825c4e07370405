"""Loops between bits of spikes and their columns, see `columns`."""

from __future__ import annotations

import numpy as np

from snnrun.compiled.jit import Floats, Times, Words, jit, part
from snnrun.compiled.masks import lane_bits
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import GROUP, lowest_bit
from snnrun.kernels.cpu.image_loops import channel_of
from snnrun.kernels.cpu.spike_loops import Listed, list_bits, list_sparse


@part
def place_of(columns: Times, b: int, row: int) -> int:
    """Where a row of sample b begins, counted in numbers of the whole array."""
    return int((b * columns.shape[1] + row) * columns.shape[2])


@part
def places_of(columns: Times, b: int, row: int, word: int, row_groups: int) -> tuple[int, int, int]:
    """Where the rows of a word's groups begin in the columns. What stands beyond the lanes of a row goes to silence."""
    first, left, silent = row * row_groups + 3 * word, row_groups - 3 * word, columns.shape[1] - 1
    return (
        place_of(columns, b, first),
        place_of(columns, b, first + 1 if left > 1 else silent),
        place_of(columns, b, first + 2 if left > 2 else silent),
    )


@part
def silence(columns: Times, b: int, row: int) -> None:
    """Let a row of the columns have no spike."""
    for t in range(columns.shape[2]):
        columns[b, row, t] = 0


@part
def active_lanes(columns: Times, b: int, row: int) -> np.uint16:
    """The bits of the channels of a row that fire at all."""
    fired = np.uint16(0)
    for t in range(columns.shape[2]):
        fired |= columns[b, row, t]
    return fired


@jit
def make_columns(words: Words, channels: int, plane: int, columns: Times, room: Listed, turn: Turn) -> None:
    """The samples of a turn: columns of the bits `words` (B, T, W)."""
    groups = (channels + GROUP - 1) // GROUP
    while True:
        b = take(turn)
        if b == NONE:
            return
        for row in range(columns.shape[1]):
            silence(columns, b, row)
        for t in range(words.shape[1]):
            for k in range(list_sparse(words, b, t, room)):
                n = room.neurons[np.uint64(k)]
                channel = channel_of(n, plane)
                row = (n - channel * plane) * groups + channel // GROUP
                columns[b, row, t] |= np.uint16(1 << (channel % GROUP))


@part
def take_group(columns: Times, b: int, row: int, groups: Words, number: int) -> bool:
    """Write a row of columns to `groups` (1, T, 1) as group `number`, after those before it; has it a spike?"""
    fired, place = np.uint64(0), np.uint64(GROUP * number)
    others = (np.uint64(1) << place) - np.uint64(1)
    for t in range(groups.shape[1]):
        bits = np.uint64(columns[b, row, t])
        groups[0, t, 0] = (groups[0, t, 0] & others) | (bits << place)
        fired |= bits
    return bool(fired != np.uint64(0))


@part
def write_bits(columns: Times, b: int, channels: int, plane: int, words: Words, counts: Floats, listed: Times) -> None:
    """Write bits and counts of sample b from its columns; `listed` (T + ROOM,) is scratch for the times of a neuron."""
    groups, spans = (channels + GROUP - 1) // GROUP, columns.shape[2] // 64
    for t in range(words.shape[1]):
        for w in range(words.shape[2]):
            words[b, t, w] = np.uint64(0)
    for n in range(counts.shape[1]):
        counts[b, n] = np.float32(0)
    for position in range(plane):
        for group in range(groups):
            row = position * groups + group
            place, active = place_of(columns, b, row), np.uint64(active_lanes(columns, b, row))
            while active != np.uint64(0):
                lane, count = lowest_bit(active), 0
                active &= active - np.uint64(1)
                for span in range(spans):
                    count = list_bits(lane_bits(columns, place + 64 * span, lane), 64 * span, listed, count)
                n = (GROUP * group + lane) * plane + position
                bit = np.uint64(1) << np.uint64(n % 64)
                for k in range(count):
                    words[b, np.uint64(listed[np.uint64(k)]), n // 64] |= bit
                counts[b, n] = np.float32(count)
