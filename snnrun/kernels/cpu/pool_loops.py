"""The loops of spiking pools: `pool_forward`, `pool_backward`.

They take 16 channels of a position at a time, and see the spikes in columns (see `columns`): those of a neuron's window
are a few rows, read step after step. Where nothing fires, nothing is computed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from snnrun.compiled.jit import Counts, Floats, Indices, Times, Words, jit, part
from snnrun.compiled.masks import keep, load_masks
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import GROUP, load, splat, store, zeros16, zeros48
from snnrun.kernels.cpu.column_loops import active_lanes, place_of, silence, take_group, write_bits
from snnrun.kernels.cpu.constants import LifConstants
from snnrun.kernels.cpu.forward_loops import LOOK
from snnrun.kernels.cpu.lane_steps import advance, advance_any, at_rest, may_fire
from snnrun.kernels.cpu.readout_loops import SIDE_BY_SIDE, Readout, read_groups

# The loops take so many inputs of a window at once.
TOGETHER = 4


class Pool(NamedTuple):
    """A pool of `channels` with `plane_in` inputs and `plane` neurons each.

    `sources` (plane, M): the positions that a position sees, filled up with -1 to a multiple of TOGETHER.
    """

    channels: int
    plane_in: int
    plane: int
    sources: Indices


@part
def find_rows(pool: Pool, columns: Times, b: int, position: int, group: int, rows: Counts) -> None:
    """Find where the rows of the inputs that a group of channels sees begin in the columns."""
    groups = (pool.channels + GROUP - 1) // GROUP
    for k in range(rows.shape[0]):
        source = pool.sources[position, k]
        rows[k] = place_of(columns, b, columns.shape[1] - 1 if source < 0 else source * groups + group)


@part
def find_three(pool: Pool, columns: Times, b: int, position: int, group: int, rows: Counts) -> None:
    """`find_rows` for three positions side by side; the rows of source k are rows[3 * k ... 3 * k + 2]."""
    groups, silent = (pool.channels + GROUP - 1) // GROUP, columns.shape[1] - 1
    for n in range(3):
        for k in range(pool.sources.shape[1]):
            source = pool.sources[position + n, k] if position + n < pool.plane else -1
            rows[3 * k + n] = place_of(columns, b, silent if source < 0 else source * groups + group)


@part
def last_seen(pool: Pool, columns: Times, b: int, position: int, group: int, active: Times, steps: int) -> int:
    """The last step at which a source of three positions fires, or -1; `active`: which rows of the sample do."""
    groups, fires = (pool.channels + GROUP - 1) // GROUP, False
    end = min(position + 3, pool.plane)
    for p in range(position, end):
        for k in range(pool.sources.shape[1]):
            source = pool.sources[p, k]
            fires |= source >= 0 and active[source * groups + group] != 0
    if not fires:
        return -1
    for t in range(steps - 1, -1, -1):
        for p in range(position, end):
            for k in range(pool.sources.shape[1]):
                source = pool.sources[p, k]
                if source >= 0 and columns[b, source * groups + group, t]:
                    return t
    return -1


@part
def four(rows: Counts, k: int) -> tuple[int, int, int, int]:
    """Four rows from k on."""
    return rows[k], rows[k + 1], rows[k + 2], rows[k + 3]


@part
def four_of_three(rows: Counts, k: int) -> Any:
    """The rows of sources k ... k + 3 of three positions."""
    k *= 3
    return (
        (rows[k], rows[k + 1], rows[k + 2]),
        (rows[k + 3], rows[k + 4], rows[k + 5]),
        (rows[k + 6], rows[k + 7], rows[k + 8]),
        (rows[k + 9], rows[k + 10], rows[k + 11]),
    )


@part
def add_four(like: Any, columns: Times, rows: Any, t: int, x: Any) -> Any:
    """x for each of four sources that fires at step t, added up."""
    a, b = keep(load_masks(columns, rows[0], t, like), x), keep(load_masks(columns, rows[1], t, like), x)
    c, d = keep(load_masks(columns, rows[2], t, like), x), keep(load_masks(columns, rows[3], t, like), x)
    return (a + b) + (c + d)


@part
def run_three(
    like: Any, last: int, steps: int, columns_in: Times, rows: Counts, lif: LifConstants, out: Times, places: Any
) -> None:
    """All steps of a group of channels at three positions, whose sources fire until step `last`."""
    first, state, rise = four_of_three(rows, 0), at_rest(like), splat(lif.rise, like)
    for start in range(1, steps, LOOK):
        stop = min(start + LOOK, steps)
        if lif.t_ref == 2 and rows.shape[0] == 3 * TOGETHER:
            for t in range(start, stop):
                drive = add_four(like, columns_in, first, t - 1, rise)
                state = advance(like, state, drive, t, lif, out, places)
        else:
            for t in range(start, stop):
                drive = like
                for k in range(0, rows.shape[0] // 3, TOGETHER):
                    drive = drive + add_four(like, columns_in, four_of_three(rows, k), t - 1, rise)
                state = advance_any(like, state, drive, t, lif, out, places)
        if start + LOOK > last + 1 and not may_fire(like, state, lif):
            return


@jit
def pool_forward(
    columns_in: Times,
    pool: Pool,
    lif: LifConstants,
    words: Words,
    counts: Floats,
    columns: Times,
    rows: Counts,
    active: Times,
    listed: Times,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.images.pool_forward`; `words` (B, T, W), `counts`, `columns` are written.

    It takes three positions at once, so that none waits for what it did the step before. Scratch: `rows` (3 * M,),
    `active` for the rows of the input, `listed` of `write_bits`.
    """
    groups, steps, silent = (pool.channels + GROUP - 1) // GROUP, words.shape[1], columns.shape[1] - 1
    while True:
        b = take(turn)
        if b == NONE:
            return
        for row in range(columns.shape[1]):
            silence(columns, b, row)
        for row in range(active.shape[0]):
            active[row] = active_lanes(columns_in, b, row)
        for position in range(0, pool.plane, 3):
            for group in range(groups):
                last = last_seen(pool, columns_in, b, position, group, active, steps)
                if last < 0:
                    continue
                find_three(pool, columns_in, b, position, group, rows)
                first, left = position * groups + group, pool.plane - position
                places = (
                    place_of(columns, b, first),
                    place_of(columns, b, first + groups if left > 1 else silent),
                    place_of(columns, b, first + 2 * groups if left > 2 else silent),
                )
                run_three(zeros48(), last, steps, columns_in, rows, lif, columns, places)
        write_bits(columns, b, pool.channels, pool.plane, words, counts, listed)


@part
def gather_channels(values: Floats, b: int, first: int, apart: int, count: int, out: Floats, at: int) -> bool:
    """Write values[b, first], [b, first + apart] ... of `count` channels, then 0, to 16 from out[at] on; any not 0?"""
    found = False
    for i in range(GROUP):
        out[at + i] = values[b, first + i * apart] if i < count else np.float32(0)
        found |= out[at + i] != np.float32(0)
    return found


@part
def sum_four(
    like: Any, values: Floats, at: int, width: int, columns: Times, rows: tuple[int, int, int, int], steps: int
) -> Any:
    """e_.j of a group of channels for four inputs of its window; values[at + t * width] has its readout, at last 0."""
    a, b, c, d = like, like, like, like
    for t in range(steps - 1):
        x = load(values, at + t * width, like)
        a = a + keep(load_masks(columns, (rows[0],), t, like), x)
        b = b + keep(load_masks(columns, (rows[1],), t, like), x)
        c = c + keep(load_masks(columns, (rows[2],), t, like), x)
        d = d + keep(load_masks(columns, (rows[3],), t, like), x)
    return a, b, c, d


@part
def send(e: Any, b: int, source: int, channel: int, pool: Pool, lanes: Floats, at: int, error: Floats) -> None:
    """Send e_.j times the credits, from lanes[at] on, to the channels from `channel` on of an input."""
    if source < 0:
        return
    product = GROUP * SIDE_BY_SIDE
    store(lanes, product, load(lanes, at, e) * e)
    for i in range(min(GROUP, pool.channels - channel)):
        error[b, (channel + i) * pool.plane_in + source] += lanes[product + i]


@part
def send_groups(
    b: int,
    count: int,
    columns_in: Times,
    pool: Pool,
    readout: Readout,
    bits: Words,
    read: Indices,
    rows: Counts,
    lanes: Floats,
    error: Floats,
) -> None:
    """Compute the readouts of `count` groups, those of the rows `read` of the columns, and send their errors."""
    like, steps, groups = zeros16(), bits.shape[1], (pool.channels + GROUP - 1) // GROUP
    width = read_groups(readout, bits, count)
    for n in range(count):
        position, group, at = read[n] // groups, read[n] % groups, GROUP * n
        find_rows(pool, columns_in, b, position, group, rows)
        for k in range(0, rows.shape[0], TOGETHER):
            e0, e1, e2, e3 = sum_four(like, readout.values, at, width, columns_in, four(rows, k), steps)
            send(e0, b, pool.sources[position, k], GROUP * group, pool, lanes, at, error)
            send(e1, b, pool.sources[position, k + 1], GROUP * group, pool, lanes, at, error)
            send(e2, b, pool.sources[position, k + 2], GROUP * group, pool, lanes, at, error)
            send(e3, b, pool.sources[position, k + 3], GROUP * group, pool, lanes, at, error)


@jit
def pool_backward(
    columns_in: Times,
    columns: Times,
    pool: Pool,
    credit: Floats,
    readout: Readout,
    rows: Counts,
    read: Indices,
    bits: Words,
    lanes: Floats,
    error: Floats,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.images.pool_backward`.

    `credit` (B, N); `readout` of 16 SIDE_BY_SIDE neurons; `error` (B, I) must be 0. Scratch: `rows` (M,), `read`
    (SIDE_BY_SIDE,), `bits` (1, T, 1), `lanes` (16 (SIDE_BY_SIDE + 1),).
    """
    groups = (pool.channels + GROUP - 1) // GROUP
    while True:
        b = take(turn)
        if b == NONE:
            return
        count = 0
        for row in range(pool.plane * groups):
            position, channel = row // groups, row % groups * GROUP
            channels, first = min(GROUP, pool.channels - channel), channel * pool.plane + position
            if gather_channels(credit, b, first, pool.plane, channels, lanes, GROUP * count):
                read[count] = row
                count += take_group(columns, b, row, bits, count)
            if count == SIDE_BY_SIDE or (count and row == pool.plane * groups - 1):
                send_groups(b, count, columns_in, pool, readout, bits, read, rows, lanes, error)
                count = 0
