"""The loops of `conv_backward` and `conv_activation`: sums over pairs of an output neuron and an input in its window.

They take a group of 16 lanes at a time, see `conv_layout`; a group that is silent or has no error is skipped.
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
from snnrun.kernels.cpu.readout_loops import SIDE_BY_SIDE, Readout, read_groups
from snnrun.kernels.cpu.spike_loops import Trains


class Pairs(NamedTuple):
    """Room for a sample of a layer.

    `bits` (1, T, 1) has the spikes of the groups of the layer whose readouts are computed together, and `groups`
    (SIDE_BY_SIDE,) has their numbers. The inputs that fire, pixel by pixel: pixel p's are
    inputs[first[p]:first[p + 1]], and the taps of lane 0 of output row 0 would be at `start`, were the runs endless.
    `gain`, `slope` and `credit` (16 SIDE_BY_SIDE,) are of these groups. `e` has the S-PSPs of a group and all inputs in
    its field that fire, where gains have a slope.
    """

    bits: Words
    groups: Indices
    first: Indices
    inputs: Indices
    start: Indices
    gain: Floats
    slope: Floats
    credit: Floats
    e: Floats


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
def gather_lanes(values: Floats, b: int, lane: int, place: Indices, shift: int, out: Floats, at: int) -> bool:
    """Write the values of the neurons of 16 lanes from out[at] on, 0 for a lane without one; is any not 0?"""
    found = False
    for i in range(GROUP):
        out[at + i] = np.float32(0)
        if values.shape[1] and place[lane + i] >= 0:
            out[at + i] = values[b, place[lane + i] + shift]
            found |= out[at + i] != np.float32(0)
    return found


@part
def write_lanes(values: Floats, at: int, b: int, lane: int, place: Indices, shift: int, out: Floats) -> None:
    """Write the values of 16 lanes, from values[at] on, to their neurons."""
    for i in range(GROUP):
        if place[lane + i] >= 0:
            out[b, place[lane + i] + shift] = values[at + i]


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
def spsp(like: Any, values: Floats, at: int, width: int, steps: int, trains: Trains, begin: int, end: int) -> Any:
    """e_.j of a group of lanes for the input whose spikes are trains.times[begin:end].

    The group's readout is at values[at + t * width]. Two sums, since one would wait for its last addition. Nothing
    follows a spike at the last step, so its row is 0.
    """
    a, b, k, none = like, like, np.uint64(begin), np.int64(steps - 1)
    while k < np.uint64(end):
        second = np.int64(trains.times[k + np.uint64(1)]) if k + np.uint64(1) < np.uint64(end) else none
        a = a + load(values, at + width * np.int64(trains.times[k]), like)
        b = b + load(values, at + width * second, like)
        k += np.uint64(2)
    return a + b


@part
def add_pairs(
    b: int,
    row: int,
    number: int,
    width: int,
    layer: ConvLayer,
    trains: Trains,
    values: Floats,
    room: Pairs,
    gradient: Floats,
    error: Floats,
) -> None:
    """Compute e_.j of group `number` of `room` for each input j in its field that fires, and add its share.

    There is no credit if `error` is (B, 0), and no gain if `gradient` is empty. Gains with a slope are known once all
    inputs have been seen, so e_.j is kept until then, and `room.gain` gets the gains.
    """
    like, layout, taps = zeros16(), layer.layout, layer.taps
    has_slope, has_credit = room.e.shape[0] > 0, error.shape[1] > 0
    has_gain = gradient.shape[0] > 0 and not has_slope
    own, group, steps = GROUP * number, room.groups[number], room.bits.shape[1]
    gain, credit, a, at = load(room.gain, own, like), load(room.credit, own, like), like, 0
    shift = GROUP * group - row * layout.stride * layout.stride * layout.run
    y0, y1, x0, x1 = field(layout, row, group)
    for y in range(y0, y1):
        for k in range(room.first[y * layout.columns + x0], room.first[y * layout.columns + x1]):
            n, place = room.inputs[k], np.int64(room.start[k]) + shift
            e = spsp(like, values, own, width, steps, trains, trains.first[b, n], trains.first[b, n + 1])
            if has_gain:
                store(gradient, place, load(gradient, place, like) + gain * e)
            if has_slope:
                a = a + load(taps, place, like) * e
                store(room.e, at, e)
                at += GROUP
            if has_credit:
                error[b, n] += total(credit * load(taps, place, like) * e)
    if not has_slope:
        return
    gain, at = gain + load(room.slope, own, like) * a, 0
    store(room.gain, own, gain)
    for y in range(y0, y1):
        for k in range(room.first[y * layout.columns + x0], room.first[y * layout.columns + x1]):
            place = np.int64(room.start[k]) + shift
            store(gradient, place, load(gradient, place, like) + gain * load(room.e, at, like))
            at += GROUP


@part
def has_error(errors: Errors, b: int, lane: int, place: Indices, shift: int, room: Pairs, number: int) -> bool:
    """Write gain, slope and credit of 16 lanes to `room`, as those of group `number`; returns whether any is not 0."""
    at = GROUP * number
    gains = gather_lanes(errors.gain, b, lane, place, shift, room.gain, at)
    slopes = gather_lanes(errors.slope, b, lane, place, shift, room.slope, at)
    credits = gather_lanes(errors.credit, b, lane, place, shift, room.credit, at)
    return bool(gains or slopes or credits)


@part
def add_groups(
    b: int,
    row: int,
    count: int,
    layer: ConvLayer,
    trains: Trains,
    errors: Errors,
    readout: Readout,
    room: Pairs,
    gradient: Floats,
) -> None:
    """Compute the readouts of the first `count` groups of `room`, and add their shares."""
    width = read_groups(readout, room.bits, count)
    for n in range(count):
        add_pairs(b, row, n, width, layer, trains, readout.values, room, gradient, errors.below)
        if errors.slope.shape[1]:
            lane, shift = GROUP * room.groups[n], row * layer.layout.out_columns
            write_lanes(room.gain, GROUP * n, b, lane, layer.tables.place, shift, errors.gain)


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
    trains the weights, `gain` is (B, 0) and each gradient is empty. Gains with a slope are written to `errors`.
    `readout` is of 16 SIDE_BY_SIDE neurons.
    """
    layout = layer.layout
    groups = layout.lanes // GROUP
    while True:
        k = take(turn)
        if k == NONE:
            return
        for b in range(parts[k, 0], parts[k, 1]):
            find_inputs(layer, trains.first, b, room)
            for row in range(layout.out_rows):
                count = 0
                for group in range(groups):
                    lane, shift = GROUP * group, row * layout.out_columns
                    if has_error(errors, b, lane, layer.tables.place, shift, room, count):
                        room.groups[count] = group
                        count += take_group(columns, b, row * groups + group, room.bits, count)
                    if count == SIDE_BY_SIDE or (count and group == groups - 1):
                        add_groups(b, row, count, layer, trains, errors, readout, room, gradients[k])
                        count = 0


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
                if not take_group(columns, b, row * groups + group, room.bits, 0):
                    continue
                read_groups(readout, room.bits, 1)
                y0, y1, x0, x1 = field(layout, row, group)
                sum_, shift = like, GROUP * group - row * layout.stride * layout.stride * layout.run
                for y in range(y0, y1):
                    for k in range(room.first[y * layout.columns + x0], room.first[y * layout.columns + x1]):
                        n = room.inputs[k]
                        begin, end = trains.first[b, n], trains.first[b, n + 1]
                        e = spsp(like, readout.values, 0, GROUP, room.bits.shape[1], trains, begin, end)
                        sum_ = sum_ + e * load(layer.taps, np.int64(room.start[k]) + shift, like)
                store(room.gain, 0, sum_)
                write_lanes(room.gain, 0, b, GROUP * group, place, row * layout.out_columns, activation)
