"""The functions of the backend for a first layer that gets currents."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snnrun.compiled import threads
from snnrun.compiled.turns import Turn
from snnrun.kernels import reference
from snnrun.kernels.cpu import current_loops, forward_loops, stbp_loops
from snnrun.kernels.cpu.arrays import (
    MOST,
    MOST_OF_IMAGES,
    as_floats,
    as_rows,
    as_words,
    check_steps,
    in_fours,
    pad,
    padded_size,
    room_for_spikes,
    sort_by_neuron,
)
from snnrun.kernels.cpu.constants import NO_FLOATS, lif_constants, rule_constants, stbp_constants
from snnrun.kernels.cpu.readout_loops import room_for_readout
from snnrun.kernels.cpu.stbp import trace_of, weight_gradient
from snnrun.kernels.neuron import Lif, Stbp, Synapses
from snnrun.kernels.packed import words


def current_drive(values: Tensor, weight: Tensor) -> Tensor:
    """See `reference.current_drive`."""
    batch, count, inputs = values.shape
    neurons, padded = len(weight), padded_size(len(weight))
    x, rows = as_floats(values), as_rows(weight)
    drive = torch.empty(batch, count, padded)
    out = drive.numpy().reshape(-1)

    def some(turn: Turn) -> None:
        index, some_x = np.empty(inputs, np.int32), np.empty(inputs, np.float32)
        current_loops.current_drive(x, rows, padded, index, some_x, out, turn)

    threads.share(batch, some)
    return drive[:, :, :neurons].contiguous()


def lif_driven(
    drive: Tensor, recurrent: Synapses | None, lif: Lif, steps: int, slack: bool = True
) -> tuple[Tensor, Tensor]:
    """See `reference.lif_driven`."""
    batch, count, neurons = drive.shape
    padded, steps = padded_size(neurons), check_steps(steps)
    layer = forward_loops.Layer(pad(drive).reshape(-1), padded, neurons, lif_constants(lif, slack))
    spikes = torch.zeros(batch, steps, words(neurons), dtype=torch.int64)
    counts = torch.empty(batch, padded)
    out, n = as_words(spikes, MOST_OF_IMAGES), counts.numpy()
    fours = None if recurrent is None else in_fours(recurrent, neurons)

    def some(turn: Turn) -> None:
        if fours is None:
            current_loops.lif_driven(layer, count, out, n, turn)
            return
        room = forward_loops.room_for_coupled(padded, 0, out.shape[2])
        current_loops.coupled_driven(layer, count, fours, out, n, room, turn)

    threads.share(batch, some)
    return spikes, counts[:, :neurons].contiguous()


def readout_sums(rule: str, lif: Lif, spikes: Tensor, like: Tensor, count: int) -> Tensor:
    """See `reference.readout_sums`."""
    (batch, steps, _), neurons = spikes.shape, like.shape[1]
    padded, own, constants = padded_size(neurons), as_words(spikes, MOST_OF_IMAGES), rule_constants(rule, lif, steps)
    sums = torch.empty(batch, count, padded)
    out = sums.numpy().reshape(-1)

    def some(turn: Turn) -> None:
        current_loops.readout_sums(own, room_for_readout(constants, steps, 64), count, padded, out, turn)

    threads.share(batch, some)
    return sums[:, :, :neurons].contiguous()


def stbp_driven(
    drive: Tensor, recurrent_weight: Tensor | None, neuron: Stbp, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.stbp_driven`."""
    batch, count, neurons = drive.shape
    padded, steps = padded_size(neurons), check_steps(steps)
    loop = NO_FLOATS if recurrent_weight is None else as_rows(recurrent_weight)
    layer = stbp_loops.StbpLayer(pad(drive).reshape(-1), NO_FLOATS, loop, neurons, stbp_constants(neuron))
    spikes = torch.zeros(batch, steps, words(neurons), dtype=torch.int64)
    counts, membrane = torch.zeros(batch, padded), torch.empty(batch, steps, neurons)
    most = MOST_OF_IMAGES if recurrent_weight is None else MOST
    out, n, u = as_words(spikes, most), counts.numpy(), membrane.numpy().reshape(-1)

    def some(turn: Turn) -> None:
        room = room_for_spikes(out), np.zeros(padded, np.float32)
        current_loops.stbp_driven(layer, count, out, n, u, *room, turn)

    threads.share(batch, some)
    return spikes, counts[:, :neurons].contiguous(), membrane


def stbp_driven_backward(
    grad_spikes: Tensor, spikes: Tensor, membrane: Tensor, recurrent_weight: Tensor | None, neuron: Stbp, count: int
) -> tuple[Tensor, Tensor]:
    """See `reference.stbp_driven_backward`."""
    loop = NO_FLOATS if recurrent_weight is None else as_rows(recurrent_weight)
    (batch, steps, neurons), (trace, _) = membrane.shape, trace_of(grad_spikes, spikes, membrane, loop, neuron)
    grad_u = torch.from_numpy(trace[: batch * steps * padded_size(neurons)]).view(batch, steps, -1)[:, :, :neurons]
    grad_recurrent = grad_u.new_zeros(0, 0)
    if recurrent_weight is not None:
        grad_recurrent = weight_gradient(trace, 1, steps, sort_by_neuron(spikes[:, :-1], neurons), neurons)
    return reference.held_sums(grad_u, count), grad_recurrent
