"""The loop of `conv_forward` for small windows, whose inputs at a step are a number of up to 27 bits.

A network's first convolution sees one channel, or few. Which of the inputs fire in the window of a position is a
number, the *pattern*. Three tables have the sum of the taps of each third of a pattern. So a position's input is three
additions at each step, whatever the number of spikes. Where spikes are added one by one, the processor mispredicts
their number at every other step.

The patterns of a row of positions become those of the next row by a shift, with the bits of the input rows that come
into the window.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats, Places, Times, Words, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import GROUP, load, side_by_side, zeros16, zeros48
from snnrun.kernels.cpu.column_loops import places_of, silence, write_bits
from snnrun.kernels.cpu.constants import LifConstants
from snnrun.kernels.cpu.conv_layout import THIRD
from snnrun.kernels.cpu.forward_loops import LOOK
from snnrun.kernels.cpu.image_layout import Layout
from snnrun.kernels.cpu.lane_steps import advance, advance_any, at_rest, may_fire

PATTERNS = 1 << THIRD


class Patterns(NamedTuple):
    """Room for the bits of each row of the input, `rows` (C * rows, T), and for patterns, `values` (columns + 1, T).

    The patterns are those of a row of positions; after the last come zeros.
    """

    rows: Words
    values: Places


@part
def gather_rows(words_in: Words, b: int, layout: Layout, rows: Words) -> None:
    """Write the bits of each row of the input at each step, from bit `padding` on."""
    for channel in range(layout.channels):
        for y in range(layout.rows):
            first = np.uint64(channel * layout.plane + y * layout.columns)
            w, shift = np.int64(first >> np.uint64(6)), first & np.uint64(63)
            end = np.int64(shift) + layout.columns
            mask = ~np.uint64(0) >> np.uint64(64 - layout.columns)
            row = channel * layout.rows + y
            for t in range(words_in.shape[1]):
                bits = words_in[b, t, w] >> shift
                if end > 64:
                    bits |= words_in[b, t, w + 1] << (np.uint64(64) - shift)
                rows[row, t] = (bits & mask) << np.uint64(layout.padding)


@part
def push_row(layout: Layout, y: int, patterns: Patterns) -> None:
    """Let row y of the input come into the windows, and the topmost leave them; beyond the edge nothing fires."""
    width = np.uint64(layout.width)
    mask = (np.uint64(1) << width) - np.uint64(1)
    place = np.uint32(layout.width * (layout.channels * layout.height - 1))
    for channel in range(layout.channels):
        row = channel * layout.rows + y
        for column in range(layout.out_columns):
            shift = np.uint64(column * layout.stride)
            if 0 <= y < layout.rows:
                for t in range(patterns.values.shape[1]):
                    bits = np.uint32(patterns.rows[row, t] >> shift & mask)
                    old = patterns.values[column, t] >> np.uint32(layout.width)
                    patterns.values[column, t] = old | bits << place
            else:
                for t in range(patterns.values.shape[1]):
                    patterns.values[column, t] >>= np.uint32(layout.width)


@part
def look_up(tables: Floats, table: int, patterns: Places, position: np.uint64, t: int) -> Any:
    """The input of a group of lanes at a position at step t; `table`: where its tables begin."""
    like, lowest, pattern = zeros16(), PATTERNS - 1, np.int64(patterns[position, np.uint64(t)])
    first = load(tables, table + GROUP * (pattern & lowest), like)
    second = load(tables, table + GROUP * (PATTERNS + (pattern >> THIRD & lowest)), like)
    return (first + second) + load(tables, table + GROUP * (2 * PATTERNS + (pattern >> 2 * THIRD)), like)


@part
def drive_at(tables: Floats, begins: tuple[int, int, int], values: Places, positions: Any, t: int) -> Any:
    """The input of a word of lanes at step t."""
    return side_by_side(
        look_up(tables, begins[0], values, positions[0], t),
        look_up(tables, begins[1], values, positions[1], t),
        look_up(tables, begins[2], values, positions[2], t),
    )


@part
def sees(values: Places, positions: Any, t: int) -> bool:
    """Whether any of three positions sees a spike at step t."""
    step = np.uint64(t)
    return bool(values[positions[0], step] | values[positions[1], step] | values[positions[2], step])


@part
def run_word(
    layout: Layout,
    word: int,
    tables: Floats,
    lif: LifConstants,
    values: Places,
    columns: Times,
    places: tuple[int, int, int],
) -> None:
    """All steps of a word of lanes in the row whose patterns are there. Its lanes beyond the row see nothing."""
    like, steps, groups, g = zeros48(), values.shape[1], layout.per // GROUP, 3 * word
    end = layout.out_columns
    positions = (
        np.uint64(g // groups),
        np.uint64(min((g + 1) // groups, end)),
        np.uint64(min((g + 2) // groups, end)),
    )
    size = 3 * PATTERNS * GROUP
    begins = (g % groups * size, (g + 1) % groups * size, (g + 2) % groups * size)
    first, last, state = 0, steps - 1, at_rest(like)
    while first < steps and not sees(values, positions, first):
        first += 1
    while last > first and not sees(values, positions, last):
        last -= 1
    for start in range(first + 1, steps, LOOK):
        stop = min(start + LOOK, steps)
        if lif.t_ref == 2:
            for t in range(start, stop):
                drive = drive_at(tables, begins, values, positions, t - 1)
                state = advance(like, state, drive, t, lif, columns, places)
        else:
            for t in range(start, stop):
                drive = drive_at(tables, begins, values, positions, t - 1)
                state = advance_any(like, state, drive, t, lif, columns, places)
        if start + LOOK > last + 1 and not may_fire(like, state, lif):
            return


@jit
def conv_by_table(
    words_in: Words,
    layout: Layout,
    tables: Floats,
    lif: LifConstants,
    words: Words,
    counts: Floats,
    columns: Times,
    patterns: Patterns,
    listed: Times,
    turn: Turn,
) -> None:
    """`conv_loops.conv_forward` with the `tables` of `conv_layout.tables_of`."""
    while True:
        b = take(turn)
        if b == NONE:
            return
        for row in range(columns.shape[1]):
            silence(columns, b, row)
        gather_rows(words_in, b, layout, patterns.rows)
        for column in range(patterns.values.shape[0]):
            for t in range(patterns.values.shape[1]):
                patterns.values[column, t] = 0
        y = -layout.padding
        for row in range(layout.out_rows):
            while y < row * layout.stride - layout.padding + layout.height:
                push_row(layout, y, patterns)
                y += 1
            for word in range(layout.blocks):
                places = places_of(columns, b, row, word, layout.lanes // GROUP)
                run_word(layout, word, tables, lif, patterns.values, columns, places)
        write_bits(columns, b, layout.kernels, layout.out_rows * layout.out_columns, words, counts, listed)
