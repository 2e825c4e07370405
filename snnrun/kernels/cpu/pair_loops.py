"""The loops of `reference.spsp_backward` and `reference.spsp_activation`: sums over pairs of neurons."""

from __future__ import annotations

from typing import Any

import numpy as np

from snnrun.jit import Floats, Indices, Times, Words, jit, part
from snnrun.kernels.cpu.forward_loops import add_row_pairs, add_rows
from snnrun.kernels.cpu.readout_loops import read_block
from snnrun.kernels.cpu.spike_loops import list_spikes
from snnrun.vector import load, store, total, zeros16, zeros32, zeros64


@part
def add_pairs(
    like: Any,
    b: int,
    trace: Floats,
    base: int,
    stride: int,
    times: Times,
    first: Indices,
    gain: Floats,
    credit: Floats,
    rows: Floats,
    padded: int,
    offset: int,
    gradient: Floats,
    error: Floats,
) -> None:
    """e_.j of a block for each input j, in registers for as long as it takes to add it to gradient and error.

    `trace` holds row t of the block at base + t * stride; `gain` and `credit` are (B, P), or (B, 0) for no error.
    """
    has_credit = credit.shape[1] > 0
    g = load(gain, b * padded + offset, like)
    c = load(credit, b * padded + offset, like) if has_credit else like
    for j in range(first.shape[1] - 1):
        if first[b, j] == first[b, j + 1]:
            continue
        e = add_rows(like, trace, stride, base, times, first[b, j], first[b, j + 1])
        place = j * padded + offset
        store(gradient, place, load(gradient, place, like) + g * e)
        if has_credit:
            error[b, j] = total(c * load(rows, place, like) * e)


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
    offset: int,
    start: int,
    stop: int,
    gradient: Floats,
    error: Floats,
) -> None:
    """The block from neuron `offset` on of `reference.spsp_backward`, for samples start ... stop in their order.

    `times`, `first` (B, I + 1) from `sort_by_neuron`; `gain` (B, P), `credit` (B, P) or (B, 0); `readout` scratch of T
    rows of the block; `gradient` (I * P,) of this range, whose columns of the block are written; `error` (B, I) of
    this block.
    """
    width = min(64, padded - offset)
    inputs = first.shape[1] - 1
    for j in range(inputs):
        for i in range(width):
            gradient[j * padded + offset + i] = np.float32(0)
    for b in range(start, stop):
        if idle(gain, b, offset, width) and idle(credit, b, offset, width):
            continue
        read_block(rule, width, words, b, offset // 64, constants, kernel, previous, readout, 0, width)
        if width == 64:
            add_pairs(zeros64(), b, readout, 0, 64, times, first, gain, credit, rows, padded, offset, gradient, error)
        elif width == 32:
            add_pairs(zeros32(), b, readout, 0, 32, times, first, gain, credit, rows, padded, offset, gradient, error)
        else:
            add_pairs(zeros16(), b, readout, 0, 16, times, first, gain, credit, rows, padded, offset, gradient, error)


@part
def idle(factor: Floats, b: int, offset: int, width: int) -> bool:
    """Whether a sample's factors of a block are all 0, or absent."""
    if factor.shape[1]:
        for i in range(offset, offset + width):
            if factor[b, i] != np.float32(0):
                return False
    return True


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
