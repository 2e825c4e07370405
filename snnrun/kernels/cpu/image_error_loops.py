"""The loop that sends the errors of a convolution to its inputs, each of its own step: a transposed convolution.

The errors of a neuron in SQUARE steps lie in the lanes of a vector; steps of neighbouring samples may share one. For an
input, each neuron that sees it and has an error adds a weight times this vector. Neurons without an error in any of the
steps are left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats, Indices, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import above, expand, load, load_one, store, turn_square, zeros16
from snnrun.kernels.cpu.image_layout import Layout
from snnrun.kernels.cpu.stbp_backward_loops import EIGHT, SQUARE
from snnrun.kernels.cpu.stbp_loops import store_row


class Sent(NamedTuple):
    """What carries the errors of a convolution to its inputs, and room for SQUARE steps.

    `taps` has the weights tap by tap, then by kernel, then by channel, the channels filled up to whole EIGHTs.
    `columns` (P * SQUARE,) are the errors of each neuron. At position p, the `many[p]` kernels from `busy[p * K]` on
    have an error. `sums` (C, pixels, SQUARE), with the channels filled up, are the errors of averaged inputs, `images`
    (SQUARE, pixels of all channels, filled up to whole SQUAREs) the same step by step.
    """

    taps: Floats
    columns: Floats
    busy: Indices
    many: Indices
    sums: Floats
    images: Floats


def filled(number: int, whole: int) -> int:
    """The number rounded up."""
    return -(-number // whole) * whole


def room_to_send(taps: Floats, layout: Layout, padded: int) -> Sent:
    """`Sent` with its room."""
    area = layout.out_rows * layout.out_columns
    pixels = layout.rows // layout.pool * (layout.columns // layout.pool)
    return Sent(
        taps,
        columns=np.empty(padded * SQUARE, np.float32),
        busy=np.empty(area * layout.kernels + 1, np.int32),
        many=np.empty(area, np.int32),
        sums=np.empty(filled(filled(layout.channels, EIGHT) * pixels, SQUARE) * SQUARE, np.float32),
        images=np.empty((filled(layout.channels * pixels, SQUARE) + 1) * SQUARE, np.float32),
    )


@part
def list_busy(layout: Layout, padded: int, trace: Floats, place: int, sent: Sent) -> None:
    """Write the errors of SQUARE rows of `trace`, from `place` on, neuron by neuron; list those that have one."""
    area, kernels, columns = layout.out_rows * layout.out_columns, layout.kernels, sent.columns
    for offset in range(0, padded, SQUARE):
        turn_square(trace, place + offset, padded, columns, offset * SQUARE, SQUARE)
    for p in range(area):
        count = 0
        for k in range(kernels):
            errors = load(columns, (k * area + p) * SQUARE, zeros16())
            sent.busy[p * kernels + count] = k
            count += (above(errors, zeros16()) | above(zeros16(), errors)) != np.uint64(0)
        sent.many[p] = count


@part
def send_to_pixel(layout: Layout, y: int, x: int, channel: int, place: int, step: int, sent: Sent) -> None:
    """Write the errors of an averaged pixel in EIGHT channels to `sums`, from `place` on, `step` apart."""
    area, kernels = layout.out_rows * layout.out_columns, layout.kernels
    wide, stride = (layout.channels + EIGHT - 1) // EIGHT * EIGHT, layout.stride
    below, behind = y + layout.padding, x + layout.padding
    zero = zeros16()
    s0, s1, s2, s3, s4, s5, s6, s7 = zero, zero, zero, zero, zero, zero, zero, zero
    first_row = max(0, (below - layout.height + stride) // stride)
    first_column = max(0, (behind - layout.width + stride) // stride)
    for row in range(first_row, min(layout.out_rows, below // stride + 1)):
        for column in range(first_column, min(layout.out_columns, behind // stride + 1)):
            p = row * layout.out_columns + column
            tap = (below - row * stride) * layout.width + behind - column * stride
            at = tap * kernels * wide + channel
            for n in range(p * kernels, p * kernels + sent.many[p]):
                k = np.int64(sent.busy[n])
                errors, tap_at = load(sent.columns, (k * area + p) * SQUARE, zero), at + k * wide
                s0 = s0 + errors * load_one(sent.taps, tap_at, zero)
                s1 = s1 + errors * load_one(sent.taps, tap_at + 1, zero)
                s2 = s2 + errors * load_one(sent.taps, tap_at + 2, zero)
                s3 = s3 + errors * load_one(sent.taps, tap_at + 3, zero)
                s4 = s4 + errors * load_one(sent.taps, tap_at + 4, zero)
                s5 = s5 + errors * load_one(sent.taps, tap_at + 5, zero)
                s6 = s6 + errors * load_one(sent.taps, tap_at + 6, zero)
                s7 = s7 + errors * load_one(sent.taps, tap_at + 7, zero)
    store(sent.sums, place, s0)
    store(sent.sums, place + step, s1)
    store(sent.sums, place + 2 * step, s2)
    store(sent.sums, place + 3 * step, s3)
    store(sent.sums, place + 4 * step, s4)
    store(sent.sums, place + 5 * step, s5)
    store(sent.sums, place + 6 * step, s6)
    store(sent.sums, place + 7 * step, s7)


@part
def wide_row(images: Floats, at: int, side: int) -> Any:
    """As many floats from images[at] on as fit, but at least one, each `side` times: the lanes of a row of inputs."""
    if side > SQUARE:
        return load_one(images, at, zeros16())
    whole = zeros16()
    for i in range(side):
        lanes = np.uint64(0)
        for lane in range(i, SQUARE // side * side, side):
            lanes |= np.uint64(1) << np.uint64(lane)
        whole = whole + expand(images, at, lanes, zeros16())
    return whole


@part
def write_image(layout: Layout, at: int, sent: Sent, error: Floats, place: int) -> None:
    """Write the averaged image from images[at] on to error[place] and on: to each input of a square, 0 beyond."""
    side, columns, together = layout.pool, layout.columns, max(1, SQUARE // layout.pool)
    seen_rows, seen_columns = layout.rows // side, columns // side
    for channel in range(layout.channels):
        for y in range(seen_rows):
            row, out = (
                at + (channel * seen_rows + y) * seen_columns,
                place + (channel * layout.rows + y * side) * columns,
            )
            for x in range(0, seen_columns, together):
                lanes = wide_row(sent.images, row + x, side)
                width = min(together, seen_columns - x) * side
                for i in range(side):
                    for begin in range(0, width, SQUARE):
                        store_row(error, out + i * columns + x * side + begin, width - begin, lanes)
            for i in range(side):
                for x in range(seen_columns * side, columns):
                    error[out + i * columns + x] = np.float32(0)
        beyond = place + (channel * layout.rows + seen_rows * side) * columns
        for x in range((layout.rows - seen_rows * side) * columns):
            error[beyond + x] = np.float32(0)


@jit
def conv_errors(trace: Floats, rows: int, layout: Layout, padded: int, sent: Sent, error: Floats, turn: Turn) -> None:
    """The errors of the inputs for the squares of a turn, of SQUARE rows each.

    `trace` has `rows` rows of P, a step of a sample each, and room for SQUARE more. `error` (rows * I,) is written.
    """
    seen_rows, seen_columns = layout.rows // layout.pool, layout.columns // layout.pool
    pixels, inputs = seen_rows * seen_columns, layout.channels * layout.plane
    image = (layout.channels * pixels + SQUARE - 1) // SQUARE * SQUARE
    while True:
        k = take(turn)
        if k == NONE:
            return
        list_busy(layout, padded, trace, k * SQUARE * padded, sent)
        for channel in range(0, layout.channels, EIGHT):
            for y in range(seen_rows):
                for x in range(seen_columns):
                    place = (channel * pixels + y * seen_columns + x) * SQUARE
                    send_to_pixel(layout, y, x, channel, place, pixels * SQUARE, sent)
        for j in range(0, image, SQUARE):
            turn_square(sent.sums, j * SQUARE, SQUARE, sent.images, j, image)
        for row in range(k * SQUARE, min(rows, (k + 1) * SQUARE)):
            write_image(layout, (row - k * SQUARE) * image, sent, error, row * inputs)
