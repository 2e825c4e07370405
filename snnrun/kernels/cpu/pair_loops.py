"""The loops of `reference.spsp_backward` and `reference.spsp_activation`: sums over pairs of neurons."""

from __future__ import annotations

from typing import Any

import numpy as np

from snnrun.jit import Floats, Indices, Times, Words, jit, part
from snnrun.kernels.cpu.active_loops import LANES, Active, close_up, idle, spread, width_of
from snnrun.kernels.cpu.forward_loops import add_row_pairs, add_rows
from snnrun.kernels.cpu.readout_loops import read_block
from snnrun.kernels.cpu.spike_loops import list_spikes
from snnrun.vector import expand, load, store, total, zeros16, zeros32, zeros64


@part
def add_block(
    like: Any,
    b: int,
    readout: Floats,
    stride: int,
    times: Times,
    first: Indices,
    gain: Floats,
    credit: Floats,
    rows: Floats,
    padded: int,
    active: Active,
    groups: tuple[int, int],
    e: Floats,
    low: int,
    high: int,
    gradient: Floats,
    error: Floats,
) -> None:
    """e_.j of a block of active neurons for each input j of low ... high, added to gradient and error at once.

    `readout` holds step t of the block at t * stride, `e` (64,) is scratch for the block of one input.
    """
    has_credit = credit.shape[1] > 0
    for j in range(low, high):
        if first[b, j] == first[b, j + 1]:
            continue
        store(e, 0, add_rows(like, readout, stride, 0, times, first[b, j], first[b, j + 1]))
        below = zeros16()
        for group in range(groups[0], groups[1]):
            own, place = b * padded + LANES * group, j * padded + LANES * group
            x = expand(e, active.begin[group], active.lanes[group], zeros16())
            store(gradient, place, load(gradient, place, zeros16()) + load(gain, own, zeros16()) * x)
            if has_credit:
                below = below + load(credit, own, zeros16()) * load(rows, place, zeros16()) * x
        if has_credit:
            error[b, j] += total(below)


@jit
def spsp_backward(
    rule: int,
    words: Words,
    times: Times,
    first: Indices,
    gain: Floats,
    credit: Floats,
    rows: Floats,
    padded: int,
    constants: Floats,
    kernel: Floats,
    previous: Indices,
    readout: Floats,
    active: Active,
    e: Floats,
    low: int,
    high: int,
    start: int,
    stop: int,
    gradient: Floats,
    error: Floats,
) -> None:
    """The inputs low ... high of `reference.spsp_backward`, for samples start ... stop in their order.

    `times`, `first` (B, I + 1) from `sort_by_neuron`; `gain` (B, P), `credit` (B, P) or (B, 0); `gradient` (I * P,) of
    these samples, whose rows of the inputs are written; `error` (B, I) zero. Scratch: `readout` with room for T steps
    of a block, `active`, `e` (64,).
    """
    for place in range(low * padded, high * padded):
        gradient[place] = np.float32(0)
    for b in range(start, stop):
        if idle(gain, b) and idle(credit, b):
            continue
        count = close_up(words, b, active)
        for offset in range(0, count, 64):
            groups = spread(active, offset, min(offset + 64, count))
            width = width_of(count - offset)
            read_block(rule, width, active.words, 0, offset // 64, constants, kernel, previous, readout, 0, width)
            if width == 64:
                add_block(
                    zeros64(), b, readout, 64, times, first, gain, credit, rows, padded, active, groups, e, low, high,
                    gradient, error,
                )  # fmt: skip
            elif width == 32:
                add_block(
                    zeros32(), b, readout, 32, times, first, gain, credit, rows, padded, active, groups, e, low, high,
                    gradient, error,
                )  # fmt: skip
            else:
                add_block(
                    zeros16(), b, readout, 16, times, first, gain, credit, rows, padded, active, groups, e, low, high,
                    gradient, error,
                )  # fmt: skip


@jit
def spsp_activation(
    rule: int,
    words_in: Words,
    words: Words,
    rows: Floats,
    padded: int,
    constants: Floats,
    kernel: Floats,
    previous: Indices,
    readout: Floats,
    inputs: Times,
    activation: Floats,
    start: int,
    stop: int,
) -> None:
    """Samples start ... stop of `reference.spsp_activation`; `readout` scratch (T * P,), `activation` (B, P) zero."""
    steps = words_in.shape[1]
    for b in range(start, stop):
        for offset in range(0, padded, 64):
            width = min(64, padded - offset)
            read_block(rule, width, words, b, offset // 64, constants, kernel, previous, readout, offset, padded)
        for t in range(steps):
            count = list_spikes(words_in, b, t, inputs)
            if count == 0:
                continue
            for offset in range(0, padded, 16):
                drive = add_rows(zeros16(), rows, padded, offset, inputs, 0, count)
                place = b * padded + offset
                sum_so_far = load(activation, place, zeros16())
                store(activation, place, sum_so_far + drive * load(readout, t * padded + offset, zeros16()))


@jit
def add_random_rows(rows: Floats, index: Times, together: int, total: Floats) -> None:
    """Add the rows of `index` to `total` (P,), `together` of them at a time, in the blocks of `lif_forward`."""
    padded = total.shape[0]
    for start in range(0, index.shape[0] - together + 1, together):
        offset = 0
        while padded - offset >= 128:
            a, b = add_row_pairs(zeros64(), rows, padded, offset, index, start, start + together)
            store(total, offset, load(total, offset, zeros64()) + a)
            store(total, offset + 64, load(total, offset + 64, zeros64()) + b)
            offset += 128
        if padded - offset >= 64:
            c = add_rows(zeros64(), rows, padded, offset, index, start, start + together)
            store(total, offset, load(total, offset, zeros64()) + c)
            offset += 64
        if padded - offset == 32:
            d = add_rows(zeros32(), rows, padded, offset, index, start, start + together)
            store(total, offset, load(total, offset, zeros32()) + d)
        elif padded - offset == 16:
            e = add_rows(zeros16(), rows, padded, offset, index, start, start + together)
            store(total, offset, load(total, offset, zeros16()) + e)
