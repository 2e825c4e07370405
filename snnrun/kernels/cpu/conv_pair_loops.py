"""The loops of `conv_backward` and `conv_activation`: sums over pairs of an output neuron and an input in its window.

They take a group of 16 lanes at a time, see `conv_layout`: its readout stays in the nearest cache, and a group that is
silent or has no error is skipped.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Words, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import GROUP, load, store, total, zeros16
from snnrun.kernels.cpu.conv_layout import ConvLayer
from snnrun.kernels.cpu.image_layout import Layout
from snnrun.kernels.cpu.pair_loops import Errors
from snnrun.kernels.cpu.readout_loops import Readout, read
from snnrun.kernels.cpu.spike_loops import Listed, Trains, list_sparse


class Pairs(NamedTuple):
    """Room for a sample of a layer.

    `own` (words, T) has the layer's spikes as bits of lanes; `listed` is scratch for them. `group` (1, T, 1) has those
    of one group. The inputs that fire, pixel by pixel: pixel p's are inputs[first[p]:first[p + 1]], and the taps of
    lane 0 of output row 0 would be at `start`, were the runs endless. `gain` and `credit` (16,) are of a group.
    """

    listed: Listed
    own: Words
    group: Words
    first: Indices
    inputs: Indices
    start: Indices
    gain: Floats
    credit: Floats


@part
def gather_own(words: Words, b: int, lane: Indices, room: Pairs) -> None:
    """Write the layer's spikes of sample b to room.own."""
    own = room.own
    for w in range(own.shape[0]):
        for t in range(own.shape[1]):
            own[w, t] = np.uint64(0)
    for t in range(own.shape[1]):
        for k in range(list_sparse(words, b, t, room.listed)):
            bit = np.uint64(lane[np.uint64(room.listed.neurons[k])])
            own[bit >> np.uint64(6), np.uint64(t)] |= np.uint64(1) << (bit & np.uint64(63))


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
def take_group(row: int, group: int, room: Pairs) -> bool:
    """Write the spikes of a group of the lanes that begin at word `row` to room.group; returns whether there is any."""
    place, shift, fired = row + group // 4, np.uint64(GROUP * (group % 4)), np.uint64(0)
    for t in range(room.own.shape[1]):
        bits = room.own[place, t] >> shift & np.uint64(0xFFFF)
        room.group[0, t, 0] = bits
        fired |= bits
    return bool(fired != np.uint64(0))


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
    words: Words,
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
    groups, words_of_row = (layout.lanes + GROUP - 1) // GROUP, (layout.lanes + 63) // 64
    while True:
        k = take(turn)
        if k == NONE:
            return
        for b in range(parts[k, 0], parts[k, 1]):
            gather_own(words, b, layer.tables.lane, room)
            find_inputs(layer, trains.first, b, room)
            for row in range(layout.out_rows):
                shift = row * layout.out_columns
                for group in range(groups):
                    gains = gather_lanes(errors.gain, b, GROUP * group, place, shift, room.gain)
                    credits = gather_lanes(errors.credit, b, GROUP * group, place, shift, room.credit)
                    if (gains or credits) and take_group(row * words_of_row, group, room):
                        read(zeros16(), readout, room.group, 0, 0, 0, GROUP)
                        add_pairs(b, row, group, layer, trains, readout.values, room, gradients[k], errors.below)


@jit
def conv_activation(
    words: Words, trains: Trains, layer: ConvLayer, readout: Readout, room: Pairs, activation: Floats, turn: Turn
) -> None:
    """The samples of a turn of `reference.images.conv_activation`; `activation` (B, N) 0, `readout` of 16 neurons."""
    like, layout, place = zeros16(), layer.layout, layer.tables.place
    groups, words_of_row = (layout.lanes + GROUP - 1) // GROUP, (layout.lanes + 63) // 64
    while True:
        b = take(turn)
        if b == NONE:
            return
        gather_own(words, b, layer.tables.lane, room)
        find_inputs(layer, trains.first, b, room)
        for row in range(layout.out_rows):
            for group in range(groups):
                if not take_group(row * words_of_row, group, room):
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
