"""The functions of the backend for layers over images: convolutions and spiking pools.

Spikes drive them, as in dense layers: a spike adds the taps of its neuron to the rows of output that see it (see
`conv_layout`), or the spikes of a window choose the sum of taps (see `conv_table_loops`). Lanes that no spike reaches
and neurons that never fire cost almost nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snnrun.compiled import threads
from snnrun.compiled.jit import Indices, Times, Words
from snnrun.compiled.turns import Turn
from snnrun.compiled.vector import GROUP
from snnrun.kernels.cpu import conv_loops, conv_pair_loops, pool_loops
from snnrun.kernels.cpu.arrays import (
    MOST_OF_IMAGES,
    aligned,
    aligned_zeros,
    as_floats,
    as_words,
    check_type,
    parts_of,
    sort_by_neuron,
    spikes_of,
)
from snnrun.kernels.cpu.columns import Image, columns_of, keep_columns, room_for_columns
from snnrun.kernels.cpu.constants import lif_constants, rule_constants
from snnrun.kernels.cpu.conv_layout import by_rows, conv_layer, tables_of
from snnrun.kernels.cpu.conv_loops import Block, Seen
from snnrun.kernels.cpu.conv_pair_loops import Pairs
from snnrun.kernels.cpu.conv_table_loops import Patterns, conv_by_table
from snnrun.kernels.cpu.image_layout import Convolution, Layout, pool_sources, run_floats, taps_of
from snnrun.kernels.cpu.image_loops import Events
from snnrun.kernels.cpu.pair_loops import Errors
from snnrun.kernels.cpu.pool_loops import TOGETHER, Pool
from snnrun.kernels.cpu.readout_loops import SIDE_BY_SIDE, room_for_readout
from snnrun.kernels.cpu.spike_loops import ROOM, room_to_list
from snnrun.kernels.neuron import Lif, Window
from snnrun.kernels.packed import words

# A batch's gradient is added up in 2 to PARTS parts, for any number of threads. The gradient of a convolution is small;
# PART_FLOATS bounds the size of all parts together.
PARTS, PART_FLOATS = 16, 2**23


def conv_forward(spikes_in: Tensor, weight: Tensor, window: Window, lif: Lif) -> tuple[Tensor, Tensor]:
    """See `reference.images.conv_forward`."""
    batch, steps, _ = spikes_in.shape
    inputs, constants = bits_of(spikes_in), lif_constants(lif, slack=False)
    output, scale = _Output(batch, steps, window), float(constants.rise)
    tables = tables_of(weight, window, scale)
    if tables is not None:
        layout, looked_up = by_rows(window)[0], tables

        def some_by_table(turn: Turn) -> None:
            rows = np.empty((layout.channels * layout.rows, steps), np.uint64)
            patterns = Patterns(rows, np.empty((layout.out_columns + 1, steps), np.uint32))
            conv_by_table(inputs, layout, looked_up, constants, *output.arrays, patterns, output.listed(), turn)

        threads.share(batch, some_by_table)
        return output.complete()
    layer, most = conv_layer(weight, window, scale), most_spikes(inputs)

    def some(turn: Turn) -> None:
        seen, block = _room_for_seen(inputs, most, layer.layout), Block(*np.empty((2, steps), np.int32))
        conv_loops.conv_forward(inputs, layer, constants, *output.arrays, seen, block, output.listed(), turn)

    threads.share(batch, some)
    return output.complete()


def conv_activation(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, weight: Tensor, window: Window) -> Tensor:
    """See `reference.images.conv_activation`."""
    batch, steps, _ = spikes_in.shape
    own, trains = columns_of(spikes, neurons_of(window)), sort_by_neuron(spikes_in, window.inputs)
    layer, constants = conv_layer(weight, window), rule_constants(rule, lif, steps)
    activation = torch.zeros(batch, window.neurons)
    out = activation.numpy()

    def some(turn: Turn) -> None:
        readout, room = room_for_readout(constants, steps, GROUP), _room_for_pairs(steps, layer.layout)
        conv_pair_loops.conv_activation(own, trains, layer, readout, room, out, turn)

    threads.share(batch, some)
    return activation


def conv_backward(
    rule: str,
    lif: Lif,
    spikes_in: Tensor,
    spikes: Tensor,
    gain: Tensor | None,
    credit: Tensor | None,
    weight: Tensor,
    window: Window,
    gain_slope: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.images.conv_backward`."""
    batch, steps, _ = spikes_in.shape
    own, trains = columns_of(spikes, neurons_of(window)), sort_by_neuron(spikes_in, window.inputs)
    layer, constants = conv_layer(weight, window), rule_constants(rule, lif, steps)
    layout = layer.layout
    nothing = np.zeros((batch, 0), np.float32)
    gains, slopes, credits = (nothing if each is None else as_floats(each) for each in (gain, gain_slope, credit))
    if gain_slope is not None:
        gains = gains.copy()  # to be added to
    parts = parts_of_gradient(batch, layout)
    below = torch.zeros(batch, 0 if credit is None else window.inputs)
    gradients = aligned_zeros(len(parts), 0 if gain is None else run_floats(layout))
    errors = Errors(gains, slopes, credits, below.numpy())

    def some(turn: Turn) -> None:
        readout = room_for_readout(constants, steps, GROUP * SIDE_BY_SIDE)
        room = _room_for_pairs(steps, layout, gain_slope is not None)
        conv_pair_loops.conv_backward(own, trains, errors, layer, readout, room, parts, gradients, turn)

    threads.share(len(parts), some)
    if gain is None:
        return weight.new_zeros(0, 0, 0, 0), below, torch.from_numpy(nothing)
    gained = torch.from_numpy(nothing if gain_slope is None else gains)
    return taps_of(torch.from_numpy(gradients.sum(axis=0)), layout), below, gained


def pool_forward(
    spikes_in: Tensor, window: Window, lif: Lif, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """See `reference.images.pool_forward`."""
    check_type(dtype)
    batch, steps, _ = spikes_in.shape
    pool, inputs, constants = _pool(window), columns_of(spikes_in, inputs_of(window)), lif_constants(lif)
    output = _Output(batch, steps, window)

    def some(turn: Turn) -> None:
        rows, active = np.empty(3 * pool.sources.shape[1], np.int64), np.empty(inputs.shape[1], np.uint16)
        pool_loops.pool_forward(inputs, pool, constants, *output.arrays, rows, active, output.listed(), turn)

    threads.share(batch, some)
    return output.complete()


def pool_backward(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, credit: Tensor, window: Window) -> Tensor:
    """See `reference.images.pool_backward`."""
    batch, steps, _ = spikes_in.shape
    pool, constants, credits = _pool(window), rule_constants(rule, lif, steps), as_floats(credit)
    inputs, own = columns_of(spikes_in, inputs_of(window)), columns_of(spikes, neurons_of(window))
    below = torch.zeros(batch, window.inputs)
    error = below.numpy()

    def some(turn: Turn) -> None:
        readout, lanes = (
            room_for_readout(constants, steps, GROUP * SIDE_BY_SIDE),
            aligned_zeros((SIDE_BY_SIDE + 1) * GROUP),
        )
        rows, bits = np.empty(pool.sources.shape[1], np.int64), np.empty((1, steps, 1), np.uint64)
        read = np.empty(SIDE_BY_SIDE, np.int32)
        pool_loops.pool_backward(inputs, own, pool, credits, readout, rows, read, bits, lanes, error, turn)

    threads.share(batch, some)
    return below


# ---- arrays ---------------------------------------------------------------------------------------------------------


class _Output:
    """What a layer of a window writes: bits (B, T, W) and counts (B, N), which it returns, and the columns."""

    def __init__(self, batch: int, steps: int, window: Window) -> None:
        image = neurons_of(window)
        self._spikes = torch.empty(batch, steps, words(window.neurons), dtype=torch.int64)
        self._counts = torch.empty(batch, window.neurons)
        self._columns = room_for_columns(batch, steps, image)
        self.arrays = bits_of(self._spikes), self._counts.numpy(), self._columns

    def listed(self) -> Times:
        """Scratch of `column_loops.write_bits`."""
        return np.empty(self._columns.shape[2] + ROOM, np.uint16)

    def complete(self) -> tuple[Tensor, Tensor]:
        """The spikes and counts, when the loop has ended."""
        keep_columns(self._spikes, self._columns)
        return self._spikes, self._counts


def inputs_of(window: Window) -> Image:
    """The image that a window sees."""
    return Image(window.channels, window.rows * window.columns)


def neurons_of(window: Window) -> Image:
    """The image of a window's neurons."""
    return Image(window.kernels, window.out_rows * window.out_columns)


def _pool(window: Window) -> Pool:
    image = inputs_of(window)
    return Pool(*image, neurons_of(window).plane, pool_sources(window, TOGETHER))


def bits_of(spikes: Tensor) -> Words:
    """The bits (B, T, W) of a layer over images as an array."""
    return as_words(spikes, MOST_OF_IMAGES)


def most_spikes(inputs: Words) -> int:
    """The number of spikes of the sample that has most."""
    return int(spikes_of(inputs).max(initial=0))


def room_for_events(inputs: Words, spikes: int, layer: Convolution) -> Events:
    """Room for samples of at most so many spikes."""
    steps, units = inputs.shape[1], layer.layout.out_rows * layer.layout.strips
    reached = int(np.diff(layer.tables.first).max(initial=0))
    sizes = (steps, layer.layout.plane, units, (units, steps + 1), spikes * reached)
    return Events(room_to_list(inputs.shape[2], spikes), *(np.empty(size, np.int32) for size in sizes))


def parts_of_gradient(batch: int, layout: Layout) -> Indices:
    """The ranges of samples whose gradients in runs are added up separately."""
    return parts_of(batch, max(2, min(PARTS, PART_FLOATS // run_floats(layout))))


def _room_for_seen(inputs: Words, spikes: int, layout: Layout) -> Seen:
    """Room for samples of at most so many spikes."""
    steps = inputs.shape[1]
    by_row = (layout.out_rows, steps)
    sizes = (steps, steps * layout.rows + 2, spikes, spikes, spikes, by_row, by_row, spikes + 1, spikes + 1)
    return Seen(room_to_list(inputs.shape[2], spikes), *(np.empty(size, np.int32) for size in sizes))


def _room_for_pairs(steps: int, layout: Layout, slope: bool = False) -> Pairs:
    """Room for a sample of so many steps, and for gains with or without a slope."""
    inputs = layout.channels * layout.plane
    first, firing, start = (np.empty(size, np.int32) for size in (layout.plane + 1, inputs + 1, inputs + 1))
    gain, slopes, credit = aligned_zeros(3, GROUP * SIDE_BY_SIDE)
    e = aligned(GROUP * inputs if slope else 0)
    bits, groups = np.empty((1, steps, 1), np.uint64), np.empty(SIDE_BY_SIDE, np.int32)
    return Pairs(bits, groups, first, firing, start, gain, slopes, credit, e)
