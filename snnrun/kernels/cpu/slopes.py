"""The sums of a table's slopes, for CPUs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snnrun.compiled import threads
from snnrun.compiled.turns import Turn
from snnrun.kernels.cpu import slope_loops
from snnrun.kernels.cpu.arrays import as_floats, as_rows, groups_of, padded_size
from snnrun.kernels.cpu.constants import NO_FLOATS
from snnrun.kernels.neuron import Synapses


def slope_sum(table: Tensor, counts_in: Tensor, weight: Tensor, recurrent: Synapses | None, counts: Tensor) -> Tensor:
    """See `reference.slope_sum`."""
    neurons, inputs = weight.shape
    padded, n_in, n = padded_size(neurons), as_floats(counts_in), as_floats(counts)
    rows = as_rows(weight).reshape(-1, padded)
    loops = slope_loops.Loops(np.empty(0, np.int32), np.empty(0, np.int32), NO_FLOATS)
    if recurrent is not None:
        groups = groups_of(recurrent, neurons)
        loops = slope_loops.Loops(groups.first, groups.post, as_floats(recurrent.weight))
    coefficients = table.numpy()
    slopes = torch.empty(len(n), neurons, dtype=torch.float64)
    out = slopes.numpy()

    def some(turn: Turn) -> None:
        room = slope_loops.room_for_slopes(inputs, neurons, padded, len(coefficients))
        slope_loops.slope_sum(coefficients, n_in, rows, loops, n, room, out, turn)

    threads.share(len(n), some)
    return slopes
