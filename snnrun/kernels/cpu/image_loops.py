"""The loop of `conv_activation`, and what it has in common with others over strips of neurons."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Words, in_64_or_32, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import lanes, load, store
from snnrun.kernels.cpu.image_layout import Convolution, Layout, block_width
from snnrun.kernels.cpu.readout_loops import Readout, read_wide_block
from snnrun.kernels.cpu.spike_loops import Listed, list_sparse

# The layout's own function, compiled. If a loop computed more lanes than the layout has, it would write beyond arrays.
width_at = part(block_width)


class Events(NamedTuple):
    """The input spikes of a sample for each strip that they reach, step by step, see `list_events`.

    Strip u has at step t the entries address[begin[u, t]:begin[u, t + 1]], each the address of lane 0's tap. `seen`
    (pixels,) has the number of spikes of a pixel over all channels. Scratch: `listed` for the sample's spikes, `ends`
    (T,), `fill` (strips,).
    """

    listed: Listed
    ends: Indices
    seen: Indices
    fill: Indices
    begin: Indices
    address: Indices


@part
def channel_of(n: int, plane: int) -> int:
    """n // plane, without the slow division; exact for all 32-bit numbers."""
    return int((n + 0.5) * (1.0 / plane))


@part
def list_events(words_in: Words, b: int, convolution: Convolution, events: Events) -> None:
    """List the input spikes of sample b."""
    layout, tables = convolution.layout, convolution.tables
    listed, ends, seen = events.listed.neurons, events.ends, events.seen
    fill, begin, address = events.fill, events.begin, events.address
    steps, plane, count = words_in.shape[1], layout.plane, 0
    for t in range(steps):
        count = list_sparse(words_in, b, t, events.listed, count)
        ends[t] = count
    for pixel in range(plane):
        seen[pixel] = 0
    for k in range(count):
        seen[listed[k] - channel_of(listed[k], plane) * plane] += 1
    for u in range(fill.shape[0]):
        fill[u] = 0
    for pixel in range(plane):
        if seen[pixel]:
            for r in range(tables.first[pixel], tables.first[pixel + 1]):
                fill[tables.unit[r]] += seen[pixel]
    total = 0
    for u in range(fill.shape[0]):
        begin[u, 0] = total
        total += fill[u]
        fill[u] = begin[u, 0]
    channel_step = layout.height * layout.stride * layout.run
    k = 0
    for t in range(steps):
        while k < ends[t]:
            channel = channel_of(listed[k], plane)
            pixel = listed[k] - channel * plane
            shift = channel * channel_step
            for r in range(tables.first[pixel], tables.first[pixel + 1]):
                u = tables.unit[r]
                address[fill[u]] = tables.address[r] + shift
                fill[u] += 1
            k += 1
        for u in range(fill.shape[0]):
            begin[u, t + 1] = fill[u]


@part
def field(layout: Layout, row: int, position: int, last: int) -> tuple[int, int, int, int]:
    """The input's rows and columns, (start, stop) each, that an output row sees from `position` to `last`."""
    y, x, end = (
        row * layout.stride - layout.padding,
        position * layout.stride - layout.padding,
        last * layout.stride - layout.padding + layout.width,
    )
    y_stop, x_stop = min(layout.rows // layout.pool, y + layout.height), min(layout.columns // layout.pool, end)
    return max(0, y) * layout.pool, y_stop * layout.pool, max(0, x) * layout.pool, x_stop * layout.pool


@part
def lanes_of(layout: Layout, u: int) -> int:
    """Lanes of strip u that are neurons: the last strip of a row may have fewer positions."""
    return min(layout.span, layout.out_columns - u % layout.strips * layout.span) * layout.kernels


@part
def shift_of(layout: Layout, u: int) -> int:
    """What strip u adds to the neuron of each lane, see `Tables.place`."""
    return u // layout.strips * layout.out_columns + u % layout.strips * layout.span


@part
def add_taps(like: Any, taps: Floats, offset: int, events: Events, u: int, t: int) -> Any:
    """Sum of the taps that the events of step t add to the lanes of strip u, from `offset` on."""
    sum_ = like
    for k in range(events.begin[u, t], events.begin[u, t + 1]):
        sum_ = sum_ + load(taps, np.int64(events.address[k]) + offset, like)
    return sum_


@part
def gather_own(words: Words, b: int, lane: Indices, listed: Listed, own: Words) -> None:
    """The layer's spikes of sample b as bits of lanes, `own` (strips * blocks, T, 1).

    Scratch: `listed` for a step's spikes.
    """
    for block in range(own.shape[0]):
        for t in range(own.shape[1]):
            own[block, t, 0] = np.uint64(0)
    for t in range(own.shape[1]):
        for k in range(list_sparse(words, b, t, listed)):
            bit = lane[listed.neurons[k]]
            own[bit >> 6, t, 0] |= np.uint64(1) << np.uint64(bit & 63)


@part
def is_silent(own: Words, block: int) -> bool:
    """Whether a block of lanes never fires."""
    fired = np.uint64(0)
    for t in range(own.shape[1]):
        fired |= own[block, t, 0]
    return bool(fired == np.uint64(0))


@in_64_or_32
@part
def activate_lanes(like: Any, u: int, offset: int, taps: Floats, events: Events, values: Floats) -> None:
    """Sum of readout times drive of a block of lanes; row 0 of the readout gets it."""
    sum_ = like
    for t in range(events.begin.shape[1] - 1):
        if events.begin[u, t] < events.begin[u, t + 1]:
            drive = add_taps(like, taps, offset, events, u, t)
            sum_ = sum_ + drive * load(values, t * lanes(like), like)
    store(values, 0, sum_)


@jit
def conv_activation(
    words_in: Words,
    words: Words,
    convolution: Convolution,
    readout: Readout,
    activation: Floats,
    events: Events,
    own: Words,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.images.conv_activation`; `activation` (B, N) zero.

    `readout` of 64 neurons; `events` has room for the layer's own spikes too; scratch `own` as in `gather_own`.
    """
    layout, tables, begin = convolution.layout, convolution.tables, events.begin
    while True:
        b = take(turn)
        if b == NONE:
            return
        list_events(words_in, b, convolution, events)
        gather_own(words, b, tables.lane, events.listed, own)
        for u in range(events.fill.shape[0]):
            stop, shift = lanes_of(layout, u), shift_of(layout, u)
            for offset in range(0, stop, 64):
                block = u * layout.blocks + offset // 64
                if is_silent(own, block) or begin[u, 0] == begin[u, begin.shape[1] - 1]:
                    continue
                width = width_at(stop - offset)
                read_wide_block(width, readout, own, block, 0, 0, width)
                activate_lanes(width, u, offset, convolution.taps, events, readout.values)
                for i in range(min(width, stop - offset)):
                    activation[b, tables.place[offset + i] + shift] = readout.values[i]
