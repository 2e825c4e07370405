"""The loop of `reference.slope_sum`.

Inputs with the same count have the same polynomial. Their weights are added up first, so a polynomial is read once for
each neuron and count, not for each pair.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from snnrun.compiled.jit import Doubles, Floats, Indices, jit, part
from snnrun.compiled.turns import NONE, Turn, take

# So many rows of weights are added to the sums at once, which are then read and written once for all of them.
TOGETHER = 4


class ByRow(NamedTuple):
    """Inputs sorted by their row of the table: those of row r are input[first[r]] ... input[first[r + 1] - 1].

    `first` has room for two more than there are rows.
    """

    input: Indices
    first: Indices


class Loops(NamedTuple):
    """Recurrent synapses by pre-neuron, see `arrays.Groups`, with their weights (S,)."""

    first: Indices
    post: Indices
    weight: Floats


class Room(NamedTuple):
    """Room for a sample: its inputs and its own neurons by their rows, and the sums of weights of a row, (P,)."""

    inputs: ByRow
    own: ByRow
    sums: Doubles


def room_for_slopes(inputs: int, neurons: int, padded: int, rows: int) -> Room:
    """Room for a layer and a table of so many rows."""
    first = np.empty((2, rows + 2), np.int32)
    return Room(
        ByRow(np.empty(inputs, np.int32), first[0]), ByRow(np.empty(neurons, np.int32), first[1]), np.empty(padded)
    )


@part
def sort_by_row(counts: Floats, b: int, rows: int, sorted_: ByRow) -> None:
    """Sort the inputs of sample b by their counts, clamped to 1 ... rows."""
    first = sorted_.first
    for r in range(rows + 2):
        first[r] = 0
    for j in range(counts.shape[1]):
        first[row_of(counts[b, j], rows) + 2] += 1
    for r in range(rows):
        first[r + 2] += first[r + 1]
    for j in range(counts.shape[1]):  # leaves each beginning one place further, where it belongs
        row = row_of(counts[b, j], rows) + 1
        sorted_.input[first[row]] = j
        first[row] += 1


@part
def row_of(count: np.float32, rows: int) -> int:
    """The row of the table for an input of this count."""
    return int(min(max(count, np.float32(1)), np.float32(rows))) - 1


@part
def add_rows(rows: Floats, chosen: Indices, start: int, stop: int, sums: Doubles) -> None:
    """Add the rows chosen[start:stop] of weights (I, P) to the sums (P,)."""
    k = start
    while k + TOGETHER <= stop:
        a, b, c, d = chosen[k], chosen[k + 1], chosen[k + 2], chosen[k + 3]
        for i in range(rows.shape[1]):
            pair = np.float64(rows[a, i]) + np.float64(rows[b, i])
            sums[i] += pair + (np.float64(rows[c, i]) + np.float64(rows[d, i]))
        k += TOGETHER
    while k < stop:
        a = chosen[k]
        for i in range(rows.shape[1]):
            sums[i] += np.float64(rows[a, i])
        k += 1


@part
def add_synapses(loops: Loops, own: ByRow, row: int, sums: Doubles) -> None:
    """Add the weights of the recurrent synapses from neurons of this row of the table."""
    for k in range(own.first[row], own.first[row + 1]):
        p = own.input[k]
        for s in range(loops.first[p], loops.first[p + 1]):
            sums[loops.post[s]] += np.float64(loops.weight[s])


@jit
def slope_sum(
    table: Doubles,
    counts_in: Floats,
    rows: Floats,
    loops: Loops,
    counts: Floats,
    room: Room,
    slopes: Doubles,
    turn: Turn,
) -> None:
    """The samples of a turn; `slopes` (B, N) is written. `rows` (I, P) has the weights."""
    inputs, own, sums = room.inputs, room.own, room.sums
    recurrent = loops.post.shape[0] > 0
    while True:
        b = take(turn)
        if b == NONE:
            return
        sort_by_row(counts_in, b, table.shape[0], inputs)
        if recurrent:
            sort_by_row(counts, b, table.shape[0], own)
        for i in range(counts.shape[1]):
            slopes[b, i] = 0.0
        for r in range(table.shape[0]):
            looped = recurrent and own.first[r] < own.first[r + 1]
            if inputs.first[r] == inputs.first[r + 1] and not looped:
                continue
            for i in range(rows.shape[1]):
                sums[i] = 0.0
            add_rows(rows, inputs.input, inputs.first[r], inputs.first[r + 1], sums)
            if looped:
                add_synapses(loops, own, r, sums)
            c3, c2, c1, c0 = 4.0 * table[r, 0], 3.0 * table[r, 1], 2.0 * table[r, 2], table[r, 3]
            for i in range(counts.shape[1]):
                n = np.float64(counts[b, i])
                slopes[b, i] += sums[i] * (((c3 * n + c2) * n + c1) * n + c0)
