"""What the loops over strips of neurons have in common: the spikes that a strip sees, and its field."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Words, part
from snnrun.compiled.vector import load
from snnrun.kernels.cpu.image_layout import Convolution, Layout, block_width
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
