"""The loops of `conv_backward` and `conv_activation`: sums over pairs of an output neuron and an input in its window.

They take a group of 16 lanes at a time, see `conv_layout`: its readout stays in the nearest cache, and a group that is
silent or has no error is skipped.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Times, Words, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import GROUP, load, store, total, zeros16
from snnrun.kernels.cpu.column_loops import take_group
from snnrun.kernels.cpu.conv_layout import ConvLayer
from snnrun.kernels.cpu.image_layout import Layout
from snnrun.kernels.cpu.pair_loops import Errors
from snnrun.kernels.cpu.readout_loops import Readout, read
from snnrun.kernels.cpu.spike_loops import Trains


class Pairs(NamedTuple):
    """Room for a sample of a layer.

    `group` (1, T, 1) has the spikes of a group of the layer. The inputs that fire, pixel by pixel: pixel p's are
    inputs[first[p]:first[p + 1]], and the taps of lane 0 of output row 0 would be at `start`, were the runs endless.
    `gain` and `credit` (16,) are of a group.
    """

    group: Words
    first: Indices
    inputs: Indices
    start: Indices
    gain: Floats
    credit: Floats


@part
def find_inputs(layer: ConvLayer, first: Indices, b: int, room: Pairs) -> None:
    """Find the inputs of sample b that fire."""
    layout, count = layer.layout, np.uint64(0)
    channel_step = layout.height * layout.stride * layout.run
    for pixel in range(layout.plane):
        room.first[pixel] = count
        for channel in range(layout.channels):
            n = channel * layout.plane + pixel
            room.inputs[count] = n
            room.start[count] = layer.tables.start[pixel] + channel * channel_step
            count += np.uint64(first[b, n] < first[b, n + 1])
    room.first[layout.plane] = count


@part
def gather_lanes(values: Floats, b: int, lane: int, place: Indices, shift: int, out: Floats) -> bool:
    """Write the values of the neurons of 16 lanes to `out`, 0 for a lane without one; returns whether any is not 0."""
    found = False
    for i in range(GROUP):
        out[i] = np.float32(0)
        if values.shape[1] and place[lane + i] >= 0:
            out[i] = values[b, place[lane + i] + shift]
            found |= out[i] != np.float32(0)
    return found


@part
def field(layout: Layout, row: int, group: int) -> tuple[int, int, int, int]:
    """The input's rows and columns, (start, stop) each, that a group of lanes of an output row sees."""
    last = min((GROUP * group + GROUP - 1) // layout.per, layout.out_columns - 1)
    y = row * layout.stride - layout.padding
    x = GROUP * group // layout.per * layout.stride - layout.padding
    end = last * layout.stride - layout.padding + layout.width
    y0, x0 = min(max(0, y), layout.rows), min(max(0, x), layout.columns)
    return y0, max(y0, min(layout.rows, y + layout.height)), x0, max(x0, min(layout.columns, end))


@part
def spsp(like: Any, values: Floats, steps: int, trains: Trains, begin: int, end: int) -> Any:
    """e_.j of a group of lanes for the input whose spikes are trains.times[begin:end].

    Two sums, since one would wait for its last addition. Nothing follows a spike at the last step, so its row is 0.
    """
    a, b, k, none = like, like, np.uint64(begin), np.int64(steps - 1)
    while k < np.uint64(end):
        second = np.int64(trains.times[k + np.uint64(1)]) if k + np.uint64(1) < np.uint64(end) else none
        a = a + load(values, GROUP * np.int64(trains.times[k]), like)
        b = b + load(values, GROUP * second, like)
        k += np.uint64(2)
    return a + b


@part
def add_pairs(
    b: int,
    row: int,
    group: int,
    layer: ConvLayer,
    trains: Trains,
    values: Floats,
    room: Pairs,
    gradient: Floats,
    error: Floats,
) -> None:
    """Compute e_.j of a group of lanes for each input j in its field that fires, and add its share.

    There is no credit if `error` is (B, 0), and no gain if `gradient` is empty.
    """
    like, layout, taps = zeros16(), layer.layout, layer.taps
    has_gain, has_credit = gradient.shape[0] > 0, error.shape[1] > 0
    gain, credit = load(room.gain, 0, like), load(room.credit, 0, like)
    shift = GROUP * group - row * layout.stride * layout.stride * layout.run
    y0, y1, x0, x1 = field(layout, row, group)
    for y in range(y0, y1):
        for k in range(room.first[y * layout.columns + x0], room.first[y * layout.columns + x1]):
            n, place = room.inputs[k], np.int64(room.start[k]) + shift
            e = spsp(like, values, room.group.shape[1], trains, trains.first[b, n], trains.first[b, n + 1])
            if has_gain:
                store(gradient, place, load(gradient, place, like) + gain * e)
            if has_credit:
                error[b, n] += total(credit * load(taps, place, like) * e)


@jit
def conv_backward(
    columns: Times,
    trains: Trains,
    errors: Errors,
    layer: ConvLayer,
    readout: Readout,
    room: Pairs,
    parts: Indices,
    gradients: Floats,
    turn: Turn,
) -> None:
    """The parts of a turn of `reference.images.conv_backward`: samples parts[k, 0] ... parts[k, 1] in their order.

    The loop adds to `gradients`, which has those of the parts in runs; between the runs may be any values. If nobody
    trains the weights, `gain` is (B, 0) and each gradient is empty. `readout` is of 16 neurons.
    """
    layout, place = layer.layout, layer.tables.place
    groups = layout.lanes // GROUP
    while True:
        k = take(turn)
        if k == NONE:
            return
        for b in range(parts[k, 0], parts[k, 1]):
            find_inputs(layer, trains.first, b, room)
            for row in range(layout.out_rows):
                shift = row * layout.out_columns
                for group in range(groups):
                    gains = gather_lanes(errors.gain, b, GROUP * group, place, shift, room.gain)
                    credits = gather_lanes(errors.credit, b, GROUP * group, place, shift, room.credit)
                    if (gains or credits) and take_group(columns, b, row * groups + group, room.group):
                        read(zeros16(), readout, room.group, 0, 0, 0, GROUP)
                        add_pairs(b, row, group, layer, trains, readout.values, room, gradients[k], errors.below)


@jit
def conv_activation(
    columns: Times, trains: Trains, layer: ConvLayer, readout: Readout, room: Pairs, activation: Floats, turn: Turn
) -> None:
    """The samples of a turn of `reference.images.conv_activation`; `activation` (B, N) 0, `readout` of 16 neurons."""
    like, layout, place = zeros16(), layer.layout, layer.tables.place
    groups = layout.lanes // GROUP
    while True:
        b = take(turn)
        if b == NONE:
            return
        find_inputs(layer, trains.first, b, room)
        for row in range(layout.out_rows):
            for group in range(groups):
                if not take_group(columns, b, row * groups + group, room.group):
                    continue
                read(like, readout, room.group, 0, 0, 0, GROUP)
                y0, y1, x0, x1 = field(layout, row, group)
                sum_, shift = like, GROUP * group - row * layout.stride * layout.stride * layout.run
                for y in range(y0, y1):
                    for k in range(room.first[y * layout.columns + x0], room.first[y * layout.columns + x1]):
                        n = room.inputs[k]
                        begin, end = trains.first[b, n], trains.first[b, n + 1]
                        e = spsp(like, readout.values, room.group.shape[1], trains, begin, end)
                        sum_ = sum_ + e * load(layer.taps, np.int64(room.start[k]) + shift, like)
                store(room.gain, 0, sum_)
                for i in range(GROUP):
                    if place[GROUP * group + i] >= 0:
                        activation[b, place[GROUP * group + i] + row * layout.out_columns] = room.gain[i]
