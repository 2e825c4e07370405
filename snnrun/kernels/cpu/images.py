"""The functions of the backend for layers over images: convolutions and spiking pools.

Spikes drive them, as in dense layers: a spike adds the taps of its neuron to the rows of output that see it (see
`conv_layout`). Lanes that no spike reaches and neurons that never fire cost almost nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snnrun.compiled import threads
from snnrun.compiled.jit import Indices, Words
from snnrun.compiled.turns import Turn
from snnrun.compiled.vector import GROUP
from snnrun.kernels.cpu import conv_loops, conv_pair_loops, pool_loops
from snnrun.kernels.cpu.arrays import (
    MOST_OF_IMAGES,
    aligned_zeros,
    as_floats,
    as_words,
    check_type,
    parts_of,
    sort_by_neuron,
    spikes_of,
)
from snnrun.kernels.cpu.constants import lif_constants, rule_constants
from snnrun.kernels.cpu.conv_layout import conv_layer
from snnrun.kernels.cpu.conv_loops import Block, Seen
from snnrun.kernels.cpu.conv_pair_loops import Pairs
from snnrun.kernels.cpu.image_layout import Convolution, Layout, pool_tables, run_floats, taps_of
from snnrun.kernels.cpu.image_loops import Events
from snnrun.kernels.cpu.pair_loops import Errors
from snnrun.kernels.cpu.readout_loops import room_for_readout
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
    layer = conv_layer(weight, window, float(constants.rise))
    spikes, counts = _room_for_output(batch, steps, window.neurons)
    out, n, most = bits_of(spikes), counts.numpy(), most_spikes(inputs)

    def some(turn: Turn) -> None:
        seen, block = _room_for_seen(inputs, most, layer.layout), _room_for_block(steps)
        conv_loops.conv_forward(inputs, layer, constants, out, n, seen, block, turn)

    threads.share(batch, some)
    return spikes, counts


def conv_activation(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, weight: Tensor, window: Window) -> Tensor:
    """See `reference.images.conv_activation`."""
    batch, steps, _ = spikes_in.shape
    own, trains = bits_of(spikes), sort_by_neuron(spikes_in, window.inputs)
    layer, constants = conv_layer(weight, window), rule_constants(rule, lif, steps)
    activation = torch.zeros(batch, window.neurons)
    out = activation.numpy()

    def some(turn: Turn) -> None:
        readout, room = room_for_readout(constants, steps, GROUP), _room_for_pairs(own, layer.layout)
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
) -> tuple[Tensor, Tensor]:
    """See `reference.images.conv_backward`."""
    batch, steps, _ = spikes_in.shape
    own, trains = bits_of(spikes), sort_by_neuron(spikes_in, window.inputs)
    layer, constants = conv_layer(weight, window), rule_constants(rule, lif, steps)
    layout = layer.layout
    nothing = np.zeros((batch, 0), np.float32)
    gains, credits = (nothing if each is None else as_floats(each) for each in (gain, credit))
    parts = parts_of_gradient(batch, layout)
    below = torch.zeros(batch, 0 if credit is None else window.inputs)
    gradients = aligned_zeros(len(parts), 0 if gain is None else run_floats(layout))
    errors = Errors(gains, credits, below.numpy())

    def some(turn: Turn) -> None:
        readout, room = room_for_readout(constants, steps, GROUP), _room_for_pairs(own, layout)
        conv_pair_loops.conv_backward(own, trains, errors, layer, readout, room, parts, gradients, turn)

    threads.share(len(parts), some)
    if gain is None:
        return weight.new_zeros(0, 0, 0, 0), below
    return taps_of(torch.from_numpy(gradients.sum(axis=0)), layout), below


def pool_forward(
    spikes_in: Tensor, window: Window, lif: Lif, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """See `reference.images.pool_forward`."""
    check_type(dtype)
    batch, steps, _ = spikes_in.shape
    first, post, _, _ = pool_tables(window)
    inputs, constants, padded = bits_of(spikes_in), lif_constants(lif), 64 * words(window.neurons)
    spikes, counts = _room_for_output(batch, steps, window.neurons)
    out, n = bits_of(spikes), counts.numpy()

    def some(turn: Turn) -> None:
        u, a = torch.empty(2, padded).numpy()
        awake, groups = np.empty(padded // GROUP, np.bool_), np.empty(padded // GROUP, np.int32)
        state = pool_loops.State(u, a, np.empty(padded // 64, np.uint64), awake, groups)
        listed, block = room_to_list(inputs.shape[2]), np.empty(64, np.uint64)
        pool_loops.pool_forward(inputs, first, post, constants, window.neurons, out, n, state, listed, block, turn)

    threads.share(batch, some)
    return spikes, counts


def pool_backward(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, credit: Tensor, window: Window) -> Tensor:
    """See `reference.images.pool_backward`."""
    batch, steps, _ = spikes_in.shape
    _, _, begin, pre = pool_tables(window)
    own, trains, credits = bits_of(spikes), sort_by_neuron(spikes_in, window.inputs), as_floats(credit)
    constants = rule_constants(rule, lif, steps)
    below = torch.zeros(batch, window.inputs)
    error = below.numpy()

    def some(turn: Turn) -> None:
        readout = room_for_readout(constants, steps, 64)
        pool_loops.pool_backward(own, trains, credits, begin, pre, readout, error, turn)

    threads.share(batch, some)
    return below


# ---- arrays ---------------------------------------------------------------------------------------------------------


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


def _room_for_block(steps: int) -> Block:
    begin, end, when = np.empty((3, steps), np.int32)
    return Block(begin, end, np.empty(steps, np.uint64), when, np.empty(64 * steps + ROOM, np.int32))


def _room_for_pairs(own: Words, layout: Layout) -> Pairs:
    """Room for a sample of a layer whose spikes are `own` (B, T, W)."""
    steps, inputs = own.shape[1], layout.channels * layout.plane
    first, firing, start = (np.empty(size, np.int32) for size in (layout.plane + 1, inputs + 1, inputs + 1))
    bits = np.empty((layout.out_rows * -(-layout.lanes // 64), steps), np.uint64)
    gain, credit = aligned_zeros(2, GROUP)
    return Pairs(
        room_to_list(own.shape[2]), bits, np.empty((1, steps, 1), np.uint64), first, firing, start, gain, credit
    )


def _room_for_output(batch: int, steps: int, neurons: int) -> tuple[Tensor, Tensor]:
    return torch.empty(batch, steps, words(neurons), dtype=torch.int64), torch.empty(batch, neurons)
