"""The functions of the backend for STBP's convolutions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snnrun.compiled import parallel, threads
from snnrun.compiled.turns import Turn
from snnrun.kernels.cpu import image_stbp_loops
from snnrun.kernels.cpu.arrays import as_floats, sort_by_neuron
from snnrun.kernels.cpu.constants import NO_FLOATS, stbp_constants
from snnrun.kernels.cpu.image_layout import Convolution, convolution, layout_of, run_floats, taps_of
from snnrun.kernels.cpu.images import bits_of, most_spikes, parts_of_gradient, room_for_events
from snnrun.kernels.cpu.stbp import stbp_scan_backward
from snnrun.kernels.neuron import Stbp, Window
from snnrun.kernels.packed import words
from snnrun.kernels.reference.images import drive_by_input


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
        events, room = room_for_events(inputs, most, layer), np.empty(64, np.float32)
        image_stbp_loops.stbp_conv_forward(inputs, layer, by_lane, constants, out, n, u, events, room, turn)

    threads.share(batch, some)
    return spikes, counts, membrane


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
    """See `reference.images.stbp_conv_backward`."""
    batch, steps, _ = spikes_in.shape
    grad_u = stbp_scan_backward(grad_spikes, spikes, membrane, neuron)
    grad_in = torch.empty(batch, steps, window.inputs) if wants_input else grad_u.new_zeros(batch, 0, 0)

    def one(b: int) -> None:
        send_below(grad_u[b], weight, window, grad_in[b])

    parallel.each(batch if wants_input else 0, one)
    if not wants_weight:
        return grad_in, grad_u.new_zeros(0, 0, 0, 0), grad_u.new_zeros(0)
    by_kernel = grad_u.reshape(batch, steps, window.kernels, -1).sum(dim=(0, 1, 3))
    return grad_in, conv_weight_gradient(grad_u, spikes_in, window), by_kernel


def send_below(grad_u: Tensor, weight: Tensor, window: Window, grad_in: Tensor) -> None:
    """Write the gradient (T, I) of a sample's inputs: a dense product, for which PyTorch is as good."""
    side = window.pool
    averaged = window._replace(rows=window.rows // side, columns=window.columns // side, pool=1)
    images = drive_by_input(grad_u, weight / side**2, averaged)
    if side == 1:
        grad_in.copy_(images)
        return
    whole = grad_in.view(-1, window.channels, window.rows, window.columns)
    squares = whole[:, :, : averaged.rows * side, : averaged.columns * side]
    if squares.numel() < whole.numel():
        whole.zero_()
    images = images.view(-1, window.channels, averaged.rows, 1, averaged.columns, 1)
    squares.view(*squares.shape[:2], averaged.rows, side, averaged.columns, side).copy_(images)


def conv_weight_gradient(grad_u: Tensor, spikes_in: Tensor, window: Window) -> Tensor:
    """Sum over samples, steps and positions of grad_u times the averaged spikes."""
    batch, steps, neurons = grad_u.shape
    layout, tables = layout_of(window)
    layer, trains = Convolution(layout, tables, NO_FLOATS), sort_by_neuron(spikes_in, window.inputs)
    flat, parts = as_floats(grad_u).reshape(-1), parts_of_gradient(batch, layout)
    gradients = np.zeros((len(parts), run_floats(layout)), np.float32)
    ones, no_error = np.ones(64, np.float32), np.zeros((batch, 0), np.float32)

    def some(turn: Turn) -> None:
        image_stbp_loops.conv_weight_gradient(
            flat, steps, neurons, trains, layer, ones, np.empty(steps * 64, np.float32), parts, gradients, no_error,
            turn,
        )  # fmt: skip

    threads.share(len(parts), some)
    return taps_of(torch.from_numpy(gradients.sum(axis=0) / np.float32(window.pool**2)), layout)
