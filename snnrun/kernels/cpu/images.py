"""The functions of the backend for layers over images: convolutions and spiking pools.

Driven by events, as dense layers are: a spike adds the taps of its neuron to the strips of output that see it (see
`image_layout`); strips that no spike reaches and neurons that never fire cost next to nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snnrun.compiled import threads
from snnrun.compiled.jit import Indices, Words
from snnrun.compiled.turns import Turn
from snnrun.kernels.cpu import image_loops, image_pair_loops, pool_loops
from snnrun.kernels.cpu.arrays import (
    MOST_OF_IMAGES,
    as_floats,
    as_words,
    check_type,
    lif_constants,
    parts_of,
    room_for_readout,
    rule_constants,
    sort_by_neuron,
    spikes_of,
)
from snnrun.kernels.cpu.image_layout import Layout, Tables, layout_of, pool_tables, run_floats, runs_of, taps_of
from snnrun.kernels.cpu.readout_loops import RULES
from snnrun.kernels.cpu.spike_loops import ROOM
from snnrun.kernels.neuron import Lif, Window
from snnrun.kernels.packed import words

# A batch's gradient is added up in so many parts at most, whatever the number of threads, and in at least two: a
# convolution's is small, and PART_FLOATS bounds the sum of them.
PARTS, PART_FLOATS = 16, 2**23


def conv_forward(spikes_in: Tensor, weight: Tensor, window: Window, lif: Lif) -> tuple[Tensor, Tensor]:
    """See `reference.images.conv_forward`."""
    batch, steps, _ = spikes_in.shape
    layout, tables = layout_of(window)
    inputs, taps, constants = bits_of(spikes_in), runs_of(weight, layout), lif_constants(lif, slack=False)
    spikes, counts = _room_for_output(batch, steps, window.neurons)
    out, n = bits_of(spikes), counts.numpy()
    room = int(spikes_of(inputs).max(initial=0))

    def some(turn: Turn) -> None:
        image_loops.conv_forward(
            inputs, taps, layout, tables, constants, out, n, *room_for_events(inputs, room, layout, tables),
            np.empty((1, steps, 1), np.uint64), np.empty(steps, np.int32), turn,
        )  # fmt: skip

    threads.share(batch, some)
    return spikes, counts


def conv_activation(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, weight: Tensor, window: Window) -> Tensor:
    """See `reference.images.conv_activation`."""
    batch, steps, _ = spikes_in.shape
    layout, tables = layout_of(window)
    inputs, own, taps = bits_of(spikes_in), bits_of(spikes), runs_of(weight, layout)
    constants, kernel = rule_constants(rule, lif, steps)
    activation = torch.zeros(batch, window.neurons)
    out = activation.numpy()
    room = int(spikes_of(inputs).max(initial=0))

    def some(turn: Turn) -> None:
        image_loops.conv_activation(
            RULES[rule], inputs, own, taps, layout, tables, constants, kernel, *room_for_readout(steps, 64), out,
            *room_for_events(inputs, room, layout, tables, own),
            room_for_lanes(steps, layout), turn,
        )  # fmt: skip

    threads.share(batch, some)
    return activation


def conv_backward(
    rule: str,
    lif: Lif,
    spikes_in: Tensor,
    spikes: Tensor,
    gain: Tensor,
    credit: Tensor | None,
    weight: Tensor,
    window: Window,
) -> tuple[Tensor, Tensor]:
    """See `reference.images.conv_backward`."""
    batch, steps, _ = spikes_in.shape
    layout, tables = layout_of(window)
    own, trains, taps = bits_of(spikes), sort_by_neuron(spikes_in, window.inputs), runs_of(weight, layout)
    gains, credits = as_floats(gain), np.zeros((batch, 0), np.float32) if credit is None else as_floats(credit)
    constants, kernel = rule_constants(rule, lif, steps)
    parts = parts_of_gradient(batch, layout)
    below = torch.zeros(batch, 0 if credit is None else window.inputs)
    gradients, errors = np.zeros((len(parts), run_floats(layout)), np.float32), below.numpy()

    def some(turn: Turn) -> None:
        image_pair_loops.conv_backward(
            RULES[rule], own, *trains, gains, credits, taps, layout, tables, constants, kernel,
            *room_for_readout(steps, 64), *_room_for_step(own), room_for_lanes(steps, layout),
            *np.empty((2, 64), np.float32), parts, gradients, errors, turn,
        )  # fmt: skip

    threads.share(len(parts), some)
    return taps_of(torch.from_numpy(gradients.sum(axis=0)), layout), below


def pool_forward(
    spikes_in: Tensor, window: Window, lif: Lif, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """See `reference.images.pool_forward`."""
    check_type(dtype)
    batch, steps, _ = spikes_in.shape
    first, post, _, _ = pool_tables(window)
    inputs, constants, padded = bits_of(spikes_in), lif_constants(lif), 64 * words(window.neurons)
    spikes, counts = _room_for_output(batch, steps, padded)
    out, n = bits_of(spikes), counts.numpy()

    def some(turn: Turn) -> None:
        pool_loops.pool_forward(
            inputs, first, post, constants, window.neurons, out, n, *np.empty((3, padded), np.float32),
            np.empty(padded // 64, np.bool_), *_room_for_step(inputs), turn,
        )  # fmt: skip

    threads.share(batch, some)
    return spikes, counts[:, : window.neurons].contiguous()


def pool_backward(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, credit: Tensor, window: Window) -> Tensor:
    """See `reference.images.pool_backward`."""
    batch, steps, _ = spikes_in.shape
    _, _, begin, pre = pool_tables(window)
    own, trains, credits = bits_of(spikes), sort_by_neuron(spikes_in, window.inputs), as_floats(credit)
    constants, kernel = rule_constants(rule, lif, steps)
    below = torch.zeros(batch, window.inputs)
    error = below.numpy()

    def some(turn: Turn) -> None:
        scratch = room_for_readout(steps, 64)
        pool_loops.pool_backward(
            RULES[rule], own, *trains, credits, begin, pre, constants, kernel, *scratch, error, turn
        )

    threads.share(batch, some)
    return below


# ---- arrays ---------------------------------------------------------------------------------------------------------


def bits_of(spikes: Tensor) -> Words:
    """The bits (B, T, W) of a layer over images as an array."""
    return as_words(spikes, MOST_OF_IMAGES)


def room_for_events(
    inputs: Words, room: int, layout: Layout, tables: Tables, own: Words | None = None
) -> tuple[Indices, ...]:
    """Scratch of `image_loops.list_events` for samples of up to `room` spikes, and of `gather_own` for `own`."""
    busy, listed = _room_for_step(*(inputs,) if own is None else (inputs, own))
    steps, units, most = inputs.shape[1], layout.out_rows * layout.strips, int(np.diff(tables.first).max(initial=0))
    listed = np.empty(max(room + ROOM, len(listed)), np.int32)
    sizes = (steps, layout.plane, units, (units, steps + 1), room * most)
    return busy, listed, *(np.empty(size, np.int32) for size in sizes)


def parts_of_gradient(batch: int, layout: Layout) -> Indices:
    """The ranges of samples whose gradients in runs are added up apart."""
    return parts_of(batch, max(2, min(PARTS, PART_FLOATS // run_floats(layout))))


def room_for_lanes(steps: int, layout: Layout) -> Words:
    """Scratch of `image_loops.gather_own`."""
    return np.empty((layout.out_rows * layout.strips * layout.blocks, steps, 1), np.uint64)


def _room_for_step(*trains: Words) -> tuple[Indices, Indices]:
    """Scratch of `spike_loops.list_sparse`: its words and its list."""
    count = max(each.shape[2] for each in trains)
    return np.empty(count, np.int32), np.empty(64 * count + ROOM, np.int32)


def _room_for_output(batch: int, steps: int, neurons: int) -> tuple[Tensor, Tensor]:
    return torch.empty(batch, steps, words(neurons), dtype=torch.int64), torch.empty(batch, neurons)
