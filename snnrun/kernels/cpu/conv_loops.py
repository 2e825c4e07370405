"""The loop of `conv_forward`: convolutions of leaky integrate-and-fire neurons."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Words, jit, part
from snnrun.compiled.masks import both, every, every_lane, keep, load_mask, not_above, store_mask
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import load, splat, zeros48
from snnrun.kernels.cpu.constants import LifConstants
from snnrun.kernels.cpu.conv_layout import WORD, ConvLayer
from snnrun.kernels.cpu.forward_loops import LOOK, MARGIN
from snnrun.kernels.cpu.image_layout import Layout
from snnrun.kernels.cpu.image_loops import channel_of
from snnrun.kernels.cpu.spike_loops import Listed, list_bits, list_sparse

# Groups of bits to a step of a word of lanes, of which the last stays empty.
GROUPS = 4


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
    """Room for all steps of a word of lanes.

    The spikes of step t that it sees are those at seen.address[begin[t]:end[t]]. `quiet` (T,) has the bits of the lanes
    that do not fire. Scratch: `when` (T,), and `fired` for the spikes of the lanes.
    """

    begin: Indices
    end: Indices
    quiet: Words
    when: Indices
    fired: Indices


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
def may_fire(like: Any, v: Any, a: Any, lif: LifConstants) -> bool:
    """Whether any lane can reach the threshold without further input; `a` is in units of the membrane's rise."""
    highest = keep(not_above(like, v), v) + keep(not_above(like, a), a) * splat(np.float32(1) / lif.rise, like)
    return not every(not_above(highest * splat(np.float32(MARGIN), like), splat(lif.threshold, like)))


@part
def run_steps(
    like: Any,
    v: Any,
    a: Any,
    recent: Any,
    begin: int,
    end: int,
    layer: ConvLayer,
    shift: int,
    lif: LifConstants,
    seen: Seen,
    block: Block,
) -> Any:
    """Steps `begin` to `end` of a word of lanes with any refractory period; returns as `run_paired`."""
    quiet = block.quiet
    for t in range(begin, end):
        a = a * splat(lif.decay_s, like) + drive_at(layer, shift, t - 1, seen, block, like)
        v = v * splat(lif.decay_m, like) + a
        for lag in range(1, min(lif.t_ref, t) + 1):
            v = keep(load_mask(quiet, GROUPS * (t - lag), like), v)
        calm = not_above(v, splat(lif.threshold, like))
        v = keep(calm, v)  # without a refractory period no later step does it
        store_mask(quiet, GROUPS * t, calm)
    return v, a, recent


@part
def run_paired(
    like: Any,
    v: Any,
    a: Any,
    recent: Any,
    begin: int,
    end: int,
    layer: ConvLayer,
    shift: int,
    lif: LifConstants,
    seen: Seen,
    block: Block,
) -> Any:
    """`run_steps` with the usual refractory period of two steps; returns v, a and the lanes quiet in the last two.

    These stay in registers. Through memory they would arrive too late: the next step waits for them. There is no room
    for more of them, so nothing else happens in this loop.
    """
    decay_m, decay_s, theta = splat(lif.decay_m, like), splat(lif.decay_s, like), splat(lif.threshold, like)
    one_ago, two_ago = recent
    for t in range(begin, end):
        a = a * decay_s + drive_at(layer, shift, t - 1, seen, block, like)
        v = keep(both(one_ago, two_ago), v * decay_m + a)
        two_ago, one_ago = one_ago, not_above(v, theta)
        store_mask(block.quiet, GROUPS * t, one_ago)
    return v, a, (one_ago, two_ago)


@part
def run_word(like: Any, layer: ConvLayer, row: int, lif: LifConstants, seen: Seen, block: Block) -> None:
    """All steps of a word of lanes in a row after `find_steps`; writes the bits of those that do not fire.

    The taps are in units of the membrane's rise. The state of the lanes stays in registers.
    """
    steps, shift = block.quiet.shape[0], row * layer.layout.stride * layer.layout.stride * layer.layout.run
    first, last = 0, steps - 1
    while block.begin[first] == block.end[first]:
        first += 1
    while block.begin[last] == block.end[last]:
        last -= 1
    for t in range(steps):
        block.quiet[t] = ~np.uint64(0)
    v, a, recent = like, like, (every_lane(like), every_lane(like))
    for t in range(first + 1, steps, LOOK):
        if lif.t_ref == 2:
            v, a, recent = run_paired(like, v, a, recent, t, min(t + LOOK, steps), layer, shift, lif, seen, block)
        else:
            v, a, recent = run_steps(like, v, a, recent, t, min(t + LOOK, steps), layer, shift, lif, seen, block)
        if t + LOOK > last and not may_fire(like, v, a, lif):
            return


@part
def write_spikes(b: int, layer: ConvLayer, row: int, word: int, block: Block, words: Words, counts: Floats) -> None:
    """Write the spikes of a word of lanes.

    It lists them first, since the processor would predict a branch for each wrong too often.
    """
    valid, found, count = layer.tables.valid[word], 0, 0
    for t in range(1, block.quiet.shape[0]):
        block.when[found] = t
        found += (~block.quiet[t] & valid) != np.uint64(0)
    for k in range(found):
        t = block.when[k]
        count = list_bits(~block.quiet[t] & valid, 64 * t, block.fired, count)
    shift, place = row * layer.layout.out_columns, layer.tables.place
    for k in range(count):
        fired = np.uint64(block.fired[k])
        step, lane = fired >> np.uint64(6), np.uint64(WORD * word) + (fired & np.uint64(63))
        n = np.uint64(place[lane] + shift)
        words[b, step, n >> np.uint64(6)] |= np.uint64(1) << (n & np.uint64(63))
        counts[b, n] += np.float32(1)


@jit
def conv_forward(
    words_in: Words,
    layer: ConvLayer,
    lif: LifConstants,
    words: Words,
    counts: Floats,
    seen: Seen,
    block: Block,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.images.conv_forward`; `words` (B, T, W) and `counts` (B, N) are written.

    The taps are times `lif.rise`. Words of lanes that see no spike are skipped.
    """
    layout = layer.layout
    while True:
        b = take(turn)
        if b == NONE:
            return
        for t in range(words.shape[1]):
            for w in range(words.shape[2]):
                words[b, t, w] = np.uint64(0)
        for n in range(counts.shape[1]):
            counts[b, n] = np.float32(0)
        count = see_spikes(words_in, b, layer, seen)
        find_rows(layout, seen)
        for word in range(layout.blocks):
            select_spikes(word, count, seen)
            for row in range(layout.out_rows):
                if find_steps(row, seen, block):
                    run_word(zeros48(), layer, row, lif, seen, block)
                    write_spikes(b, layer, row, word, block, words, counts)
