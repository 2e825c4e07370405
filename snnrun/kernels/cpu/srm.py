"""The functions of the backend for SLAYER's spike response neurons."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snnrun.compiled import threads
from snnrun.compiled.jit import Floats
from snnrun.compiled.turns import Turn
from snnrun.kernels.cpu import srm_loops
from snnrun.kernels.cpu.arrays import aligned, as_rows, check_type, pad, padded_size, room_for_spikes, sort_by_neuron
from snnrun.kernels.cpu.constants import NO_FLOATS, srm_constants
from snnrun.kernels.cpu.drives import conv_drive, dense_drive
from snnrun.kernels.cpu.image_layout import pool_tables
from snnrun.kernels.cpu.images import bits_of
from snnrun.kernels.cpu.spike_loops import room_to_list
from snnrun.kernels.cpu.stbp import weight_gradient
from snnrun.kernels.cpu.stbp_backward_loops import SQUARE
from snnrun.kernels.cpu.stbp_images import conv_weight_gradient, send_below
from snnrun.kernels.neuron import Srm, Window
from snnrun.kernels.packed import words


def srm_forward(
    spikes_in: Tensor, weight: Tensor, recurrent_weight: Tensor | None, neuron: Srm
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.srm_forward`."""
    return _scan(dense_drive(spikes_in, weight), len(weight), recurrent_weight, neuron)


def srm_backward(
    grad_spikes: Tensor,
    spikes_in: Tensor,
    spikes: Tensor,
    membrane: Tensor,
    weight: Tensor,
    recurrent_weight: Tensor | None,
    neuron: Srm,
    wants_input: bool,
    wants_weight: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.srm_backward`."""
    neurons = membrane.shape[2]
    batch, steps, _ = membrane.shape
    trace = _scan_backward(grad_spikes, membrane, recurrent_weight, neuron)
    z = torch.from_numpy(trace[: batch * steps * padded_size(neurons)]).view(batch, steps, -1)[:, :, :neurons]
    grad_in = z @ weight if wants_input else z.new_zeros(len(z), 0, 0)
    grad_recurrent = z.new_zeros(0, 0)
    if not wants_weight:
        return grad_in, z.new_zeros(0, 0), grad_recurrent
    grad_weight = weight_gradient(trace, 0, steps, sort_by_neuron(spikes_in, weight.shape[1]), neurons)
    if recurrent_weight is not None:
        grad_recurrent = weight_gradient(trace, 0, steps, sort_by_neuron(spikes, neurons), neurons)
    return grad_in, grad_weight, grad_recurrent


def srm_conv_forward(spikes_in: Tensor, weight: Tensor, window: Window, neuron: Srm) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.srm_conv_forward`."""
    return _scan(conv_drive(spikes_in, weight, window), window.neurons, None, neuron)


def srm_conv_backward(
    grad_spikes: Tensor,
    spikes_in: Tensor,
    membrane: Tensor,
    weight: Tensor,
    window: Window,
    neuron: Srm,
    wants_input: bool,
    wants_weight: bool = True,
) -> tuple[Tensor, Tensor]:
    """See `reference.srm_conv_backward`."""
    batch, steps, _ = membrane.shape
    trace = _scan_backward(grad_spikes, membrane, None, neuron)
    grad_in = torch.empty((batch, steps, window.inputs) if wants_input else (batch, 0, 0))
    if wants_input:
        send_below(trace, batch * steps, weight, window, grad_in)
    if not wants_weight:
        return grad_in, grad_in.new_zeros(0, 0, 0, 0)
    return grad_in, conv_weight_gradient(trace, spikes_in, window)


def srm_pool_forward(
    spikes_in: Tensor, window: Window, gain: float, neuron: Srm, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.srm_pool_forward`."""
    check_type(dtype)
    batch, steps, _ = spikes_in.shape
    first, post = pool_tables(window)
    inputs, padded = bits_of(spikes_in), padded_size(window.neurons)
    driven = torch.zeros(batch, steps, padded)
    out, each = driven.numpy().reshape(-1), np.float32(gain)

    def some(turn: Turn) -> None:
        srm_loops.pool_drive(inputs, first, post, each, out, padded, room_to_list(inputs.shape[2]), turn)

    threads.share(batch, some)
    return _scan(driven, window.neurons, None, neuron)


def srm_pool_backward(grad_spikes: Tensor, membrane: Tensor, window: Window, gain: float, neuron: Srm) -> Tensor:
    """See `reference.srm_pool_backward`."""
    batch, steps, _ = membrane.shape
    first, post = pool_tables(window)
    z = _scan_backward(grad_spikes, membrane, None, neuron)
    grad_in = torch.empty(batch, steps, window.inputs)
    out, padded, each = grad_in.numpy().reshape(-1), padded_size(window.neurons), np.float32(gain)
    flat = z[: batch * steps * padded]
    threads.share(batch, lambda turn: srm_loops.pool_share(flat, steps, padded, first, post, each, out, turn))
    return grad_in


def _scan(driven: Tensor, neurons: int, recurrent_weight: Tensor | None, neuron: Srm) -> tuple[Tensor, Tensor, Tensor]:
    """Bits, counts and membranes of N neurons; the membranes take the place of `driven` (B, T, P)."""
    batch, steps, padded = driven.shape
    loop = NO_FLOATS if recurrent_weight is None else as_rows(recurrent_weight)
    spikes, counts = torch.empty(batch, steps, words(neurons), dtype=torch.int64), torch.zeros(batch, padded)
    constants, out, n, u = srm_constants(neuron), bits_of(spikes), counts.numpy(), driven.numpy().reshape(-1)

    def some(turn: Turn) -> None:
        state, own = srm_loops.room_for_state(padded), room_for_spikes(out)
        srm_loops.srm_scan(neurons, loop, constants, state, out, n, u, own, turn)

    threads.share(batch, some)
    return spikes, counts[:, :neurons].contiguous(), driven[:, :, :neurons].contiguous()


def _scan_backward(grad_spikes: Tensor, membrane: Tensor, recurrent_weight: Tensor | None, neuron: Srm) -> Floats:
    """See `reference.srm_scan_backward`; the result is a trace of rows of P, 0 beyond the last neuron."""
    grad, u = pad(grad_spikes), pad(membrane)
    batch, steps, padded = grad.shape
    loop = NO_FLOATS if recurrent_weight is None else pad(recurrent_weight).reshape(-1)
    trace, constants = aligned((batch * steps + SQUARE) * padded), srm_constants(neuron)
    flat = grad.reshape(-1), u.reshape(-1), trace[: grad.size]

    def some(turn: Turn) -> None:
        state = srm_loops.room_for_state(padded)
        srm_loops.srm_scan_backward(steps, padded, loop, constants, state, *flat, turn)

    threads.share(batch, some)
    return trace
