"""The loop of `conv_forward`: convolutions of leaky integrate-and-fire neurons."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Times, Words, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import GROUP, load, zeros48
from snnrun.kernels.cpu.column_loops import places_of, silence, write_bits
from snnrun.kernels.cpu.constants import LifConstants
from snnrun.kernels.cpu.conv_layout import WORD, ConvLayer
from snnrun.kernels.cpu.forward_loops import LOOK
from snnrun.kernels.cpu.image_layout import Layout
from snnrun.kernels.cpu.image_loops import channel_of
from snnrun.kernels.cpu.lane_steps import advance, advance_any, at_rest, may_fire
from snnrun.kernels.cpu.spike_loops import Listed, list_sparse


class Seen(NamedTuple):
    """The input spikes of a sample, row by row of each step, and for one word of lanes at a time.

    Those of row y at step t are spikes first[t * rows + y] ... first[t * rows + y + 1]. Of each spike: the words `low`
    to `high` that it reaches, and the `start` of its taps. Row r of the neurons sees at step t spikes begin[r, t] ...
    end[r, t]. Of the spikes that reach a certain word: their `address`, and for each spike how many of them come
    `before` it. Scratch: `listed`, `ends` (T,).
    """

    listed: Listed
    ends: Indices
    first: Indices
    low: Indices
    high: Indices
    start: Indices
    begin: Indices
    end: Indices
    before: Indices
    address: Indices


class Block(NamedTuple):
    """The spikes of step t that a word of lanes sees are those at seen.address[begin[t]:end[t]]."""

    begin: Indices
    end: Indices


@part
def see_spikes(words_in: Words, b: int, layer: ConvLayer, seen: Seen) -> int:
    """List the input spikes of sample b row by row of each step; returns how many there are."""
    layout, tables, first, listed = layer.layout, layer.tables, seen.first, seen.listed.neurons
    steps, plane, rows, count = words_in.shape[1], np.uint64(layout.plane), np.uint64(layout.rows), 0
    pixels, starts, one = seen.address, seen.before, np.uint64(1)
    channel_step = np.uint64(layout.height * layout.stride * layout.run)
    for t in range(steps):
        count = list_sparse(words_in, b, t, seen.listed, count)
        seen.ends[t] = count
    for key in range(first.shape[0]):
        first[key] = 0
    k = np.uint64(0)
    for t in range(steps):
        row, end = np.uint64(t) * rows + np.uint64(2), np.uint64(seen.ends[t])
        while k < end:
            channel = np.uint64(channel_of(listed[k], layout.plane))
            pixel = np.uint64(listed[k]) - channel * plane
            pixels[k] = pixel
            starts[k] = np.uint64(tables.start[pixel]) + channel * channel_step
            first[row + np.uint64(tables.row[pixel])] += 1
            k += one
    for key in range(first.shape[0] - 1):
        first[key + 1] += first[key]
    # From here on first[key + 1] is where the next spike of a row goes; in the end it is where the next row begins.
    k = np.uint64(0)
    for t in range(steps):
        row, end = np.uint64(t) * rows + one, np.uint64(seen.ends[t])
        while k < end:
            pixel = np.uint64(pixels[k])
            line = row + np.uint64(tables.row[pixel])
            place = np.uint64(first[line])
            first[line] += 1
            seen.low[place], seen.high[place], seen.start[place] = tables.low[pixel], tables.high[pixel], starts[k]
            k += one
    return count


@part
def find_rows(layout: Layout, seen: Seen) -> None:
    """Find which of the spikes each row of neurons sees at each step."""
    for row in range(layout.out_rows):
        y = row * layout.stride - layout.padding
        low = min(max(0, y), layout.rows)
        high = max(low, min(layout.rows, y + layout.height))
        for t in range(seen.begin.shape[1]):
            seen.begin[row, t] = seen.first[np.uint64(t * layout.rows + low)]
            seen.end[row, t] = seen.first[np.uint64(t * layout.rows + high)]


@part
def select_spikes(word: int, count: int, seen: Seen) -> None:
    """Choose those of `count` spikes that reach a word of the rows."""
    chosen = np.uint64(0)
    for k in range(count):
        seen.before[k] = chosen
        seen.address[chosen] = seen.start[k] + WORD * word
        chosen += np.uint64((seen.low[k] <= word) & (word < seen.high[k]))
    seen.before[count] = chosen


@part
def find_steps(row: int, seen: Seen, block: Block) -> int:
    """Find where the spikes that a word of a row sees begin and end at each step; returns how many there are."""
    total, begins, ends = 0, seen.begin[row], seen.end[row]
    for t in range(begins.shape[0]):
        begin, end = seen.before[np.uint64(begins[t])], seen.before[np.uint64(ends[t])]
        block.begin[t], block.end[t] = begin, end
        total += end - begin
    return total


@part
def drive_at(layer: ConvLayer, shift: int, t: int, seen: Seen, block: Block, like: Any) -> Any:
    """The sum of the taps of the spikes that a word of lanes sees at step t."""
    drive, k, end = like, np.uint64(block.begin[np.uint64(t)]), np.uint64(block.end[np.uint64(t)])
    while k < end:
        address = np.int64(seen.address[k]) - shift
        if address < 0:  # never; LLVM unrolls no loop with two ends, and this one's end is predicted better as it is
            break
        drive = drive + load(layer.taps, address, like)
        k += np.uint64(1)
    return drive


@part
def run_word(
    like: Any,
    layer: ConvLayer,
    row: int,
    lif: LifConstants,
    seen: Seen,
    block: Block,
    columns: Times,
    places: tuple[int, int, int],
) -> None:
    """All steps of a word of lanes in a row after `find_steps`; the taps are in units of the membrane's rise."""
    steps, shift = block.begin.shape[0], row * layer.layout.stride * layer.layout.stride * layer.layout.run
    first, last, state = 0, steps - 1, at_rest(like)
    while block.begin[first] == block.end[first]:
        first += 1
    while block.begin[last] == block.end[last]:
        last -= 1
    for start in range(first + 1, steps, LOOK):
        stop = min(start + LOOK, steps)
        if lif.t_ref == 2:
            for t in range(start, stop):
                drive = drive_at(layer, shift, t - 1, seen, block, like)
                state = advance(like, state, drive, t, lif, columns, places)
        else:
            for t in range(start, stop):
                drive = drive_at(layer, shift, t - 1, seen, block, like)
                state = advance_any(like, state, drive, t, lif, columns, places)
        if start + LOOK > last + 1 and not may_fire(like, state, lif):
            return


@jit
def conv_forward(
    words_in: Words,
    layer: ConvLayer,
    lif: LifConstants,
    words: Words,
    counts: Floats,
    columns: Times,
    seen: Seen,
    block: Block,
    listed: Times,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.images.conv_forward`.

    `words` (B, T, W), `counts` (B, N) and `columns` are written. The taps are times `lif.rise`. Words of lanes that see
    no spike are skipped. Scratch: `listed` of `write_bits`.
    """
    layout = layer.layout
    while True:
        b = take(turn)
        if b == NONE:
            return
        for row in range(columns.shape[1]):
            silence(columns, b, row)
        count = see_spikes(words_in, b, layer, seen)
        find_rows(layout, seen)
        for word in range(layout.blocks):
            select_spikes(word, count, seen)
            for row in range(layout.out_rows):
                if find_steps(row, seen, block):
                    places = places_of(columns, b, row, word, layout.lanes // GROUP)
                    run_word(zeros48(), layer, row, lif, seen, block, columns, places)
        write_bits(columns, b, layout.kernels, layout.out_rows * layout.out_columns, words, counts, listed)
