"""The functions of the backend for STBP's convolutions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snnrun.compiled import threads
from snnrun.compiled.jit import Floats, Words
from snnrun.compiled.turns import Turn
from snnrun.kernels.cpu import image_error_loops, image_stbp_loops
from snnrun.kernels.cpu.arrays import as_floats, padded_size, sort_by_neuron
from snnrun.kernels.cpu.constants import NO_FLOATS, stbp_constants
from snnrun.kernels.cpu.image_error_loops import room_to_send
from snnrun.kernels.cpu.image_layout import Convolution, convolution, layout_of, run_floats, taps_of
from snnrun.kernels.cpu.image_loops import Events
from snnrun.kernels.cpu.image_stbp_loops import room_for_square, room_for_strip
from snnrun.kernels.cpu.images import bits_of, most_spikes, parts_of_gradient, room_for_events
from snnrun.kernels.cpu.stbp import samples_at_once, trace_of
from snnrun.kernels.cpu.stbp_backward_loops import EIGHT, SQUARE
from snnrun.kernels.cpu.usual_loops import room_for_sides
from snnrun.kernels.neuron import Stbp, Window
from snnrun.kernels.packed import words
from snnrun.kernels.reference import tap_by_tap


def stbp_conv_forward(
    spikes_in: Tensor, weight: Tensor, bias: Tensor | None, window: Window, neuron: Stbp
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.images.stbp_conv_forward`. If spikes are averaged, each adds its share of the taps."""
    batch, steps, _ = spikes_in.shape
    inputs, layer = bits_of(spikes_in), convolution(weight, window, 1.0 / window.pool**2)
    by_lane = np.zeros(64 * layer.layout.blocks, np.float32)
    if bias is not None:
        by_lane[: layer.layout.lanes] = np.tile(as_floats(bias), layer.layout.span)
    spikes = torch.zeros(batch, steps, words(window.neurons), dtype=torch.int64)
    counts, membrane = torch.zeros(batch, window.neurons), torch.empty(batch, steps, window.neurons)
    constants, most = stbp_constants(neuron), most_spikes(inputs)
    out, n, u = bits_of(spikes), counts.numpy(), membrane.numpy().reshape(-1)

    def some(turn: Turn) -> None:
        room = room_for_forward(inputs, most, layer)
        image_stbp_loops.stbp_conv_forward(inputs, layer, by_lane, constants, out, n, u, *room, turn)

    threads.share(batch, some)
    return spikes, counts, membrane


def room_for_forward(inputs: Words, most: int, layer: Convolution) -> tuple[Words, Words, Events, Floats, Floats]:
    """The scratch of `image_stbp_loops.stbp_conv_forward` for samples of at most so many spikes."""
    sides, planes = room_for_sides(inputs)
    events = room_for_events(sides, most, layer)
    return sides, planes, events, room_for_strip(layer.layout, inputs.shape[1]), room_for_square()


def stbp_conv_backward(
    grad_spikes: Tensor,
    spikes_in: Tensor,
    spikes: Tensor,
    membrane: Tensor,
    weight: Tensor,
    window: Window,
    neuron: Stbp,
    wants_input: bool,
    wants_weight: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.images.stbp_conv_backward`. Some samples at a time, so that their dL/du needs little memory."""
    batch, steps, neurons = membrane.shape
    grad_in = torch.empty((batch, steps, window.inputs) if wants_input else (batch, 0, 0))
    gradient, total = tap_by_tap(torch.zeros_like(weight)), torch.zeros(neurons)
    for some in samples_at_once(batch, steps * padded_size(neurons)):
        trace, sums = trace_of(grad_spikes[some], spikes[some], membrane[some], NO_FLOATS, neuron)
        if wants_input:
            send_below(trace, len(sums) * steps, weight, window, grad_in[some])
        if wants_weight:
            gradient += conv_weight_gradient(trace, spikes_in[some], window)
            total += torch.from_numpy(sums[:, :neurons]).sum(dim=0)
    if not wants_weight:
        return grad_in, grad_in.new_zeros(0, 0, 0, 0), grad_in.new_zeros(0)
    return grad_in, gradient, total.reshape(window.kernels, -1).sum(dim=1)


def send_below(trace: Floats, rows: int, weight: Tensor, window: Window, grad_in: Tensor) -> None:
    """Write the gradient of the inputs, so many rows of I, from a `trace` with as many rows of P, see `room_below`."""
    layout, _ = layout_of(window)
    missing = -window.channels % EIGHT
    by_tap = torch.nn.functional.pad(weight.permute(2, 3, 0, 1), (0, missing)) / window.pool**2
    taps, error, padded = as_floats(by_tap).reshape(-1), grad_in.numpy().reshape(-1), len(trace) // (rows + SQUARE)

    def some(turn: Turn) -> None:
        sent = room_to_send(taps, layout, padded)
        image_error_loops.conv_errors(trace, rows, layout, padded, sent, error, turn)

    threads.share(-(-rows // SQUARE), some)


def conv_weight_gradient(trace: Floats, spikes_in: Tensor, window: Window) -> Tensor:
    """Sum over samples, steps and positions of a trace times the averaged spikes."""
    batch, steps, _ = spikes_in.shape
    layout, tables = layout_of(window)
    layer, trains = Convolution(layout, tables, NO_FLOATS), sort_by_neuron(spikes_in, window.inputs)
    padded, parts = len(trace) // (batch * steps + SQUARE), parts_of_gradient(batch, layout)
    gradients = np.zeros((len(parts), run_floats(layout)), np.float32)

    def some(turn: Turn) -> None:
        room = room_for_strip(layout, steps), room_for_square()
        image_stbp_loops.conv_weight_gradient(trace, steps, padded, trains, layer, *room, parts, gradients, turn)

    threads.share(len(parts), some)
    return taps_of(torch.from_numpy(gradients.sum(axis=0) / np.float32(window.pool**2)), layout)
