"""The functions of the backend for STBP."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snnrun.compiled import threads
from snnrun.compiled.jit import Floats
from snnrun.compiled.turns import Turn
from snnrun.kernels import reference
from snnrun.kernels.cpu import stbp_loops
from snnrun.kernels.cpu.arrays import (
    as_rows,
    as_words,
    pad,
    padded_size,
    room_for_spikes,
    sort_by_neuron,
    unpadded,
)
from snnrun.kernels.cpu.constants import GIVEN, NO_FLOATS, stbp_constants
from snnrun.kernels.cpu.spike_loops import Trains
from snnrun.kernels.neuron import Stbp
from snnrun.kernels.packed import unpack, words


def stbp_forward(
    spikes_in: Tensor, weight: Tensor, bias: Tensor | None, recurrent_weight: Tensor | None, neuron: Stbp
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.stbp_forward`."""
    batch, steps, _ = spikes_in.shape
    neurons, padded = len(weight), padded_size(len(weight))
    inputs = as_words(spikes_in)
    offset = np.zeros(padded, np.float32) if bias is None else pad(bias[None])[0]
    loop = NO_FLOATS if recurrent_weight is None else as_rows(recurrent_weight)
    spikes = torch.zeros(batch, steps, words(neurons), dtype=torch.int64)
    counts, membrane = torch.zeros(batch, padded), torch.empty(batch, steps, padded)
    layer = stbp_loops.StbpLayer(as_rows(weight), offset, loop, neurons, stbp_constants(neuron))
    out, n, u = as_words(spikes), counts.numpy(), membrane.numpy().reshape(-1)

    def some(turn: Turn) -> None:
        stbp_loops.stbp_forward(inputs, layer, out, n, u, room_for_spikes(inputs), room_for_spikes(out), turn)

    threads.share(batch, some)
    return spikes, counts[:, :neurons].contiguous(), membrane[:, :, :neurons].contiguous()


def stbp_backward(
    grad_spikes: Tensor,
    spikes_in: Tensor,
    spikes: Tensor,
    membrane: Tensor,
    weight: Tensor,
    recurrent_weight: Tensor | None,
    neuron: Stbp,
    wants_input: bool,
    wants_weight: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `reference.stbp_backward`."""
    neurons = membrane.shape[2]
    grad_u = gradient_of_membrane(grad_spikes, spikes, membrane, recurrent_weight, neuron)
    grad_in = grad_u @ weight if wants_input else grad_u.new_zeros(len(grad_u), 0, 0)
    grad_recurrent = grad_u.new_zeros(0, 0)
    if not wants_weight:
        return grad_in, grad_u.new_zeros(0, 0), grad_u.new_zeros(0), grad_recurrent
    grad_weight = weight_gradient(pad(grad_u), 0, sort_by_neuron(spikes_in, weight.shape[1]), neurons)
    if recurrent_weight is not None:
        grad_recurrent = recurrent_gradient(grad_u, spikes)
    return grad_in, grad_weight, grad_u.sum(dim=(0, 1)), grad_recurrent


def gradient_of_membrane(
    grad_spikes: Tensor, spikes: Tensor, membrane: Tensor, recurrent_weight: Tensor | None, neuron: Stbp
) -> Tensor:
    """dL/du (B, T, N), see `reference.stbp_scan_backward`."""
    if recurrent_weight is None:
        return stbp_scan_backward(grad_spikes, spikes, membrane, neuron)
    # a dense product per step, for which PyTorch is as good
    own = unpack(spikes, membrane.shape[2], membrane.dtype)
    return reference.stbp_scan_backward(grad_spikes, own, membrane, recurrent_weight, neuron)


def recurrent_gradient(grad_u: Tensor, spikes: Tensor) -> Tensor:
    """dL/dW_rec (N, N), stored input by input, from dL/du and the layer's own spikes."""
    neurons = grad_u.shape[2]
    return weight_gradient(pad(grad_u), 1, sort_by_neuron(spikes[:, :-1], neurons), neurons)


def stbp_scan_backward(grad_spikes: Tensor, spikes: Tensor, membrane: Tensor, neuron: Stbp) -> Tensor:
    """See `reference.stbp_scan_backward`; for layers without recurrent synapses."""
    neurons, constants = membrane.shape[2], stbp_constants(neuron)
    given = pad(reference.surrogate(membrane, neuron)) if constants.surrogate == GIVEN else NO_FLOATS
    own, grad, u = as_words(spikes), pad(grad_spikes), pad(membrane)
    grad_u = torch.empty(grad.shape)
    flat = [array.reshape(-1) for array in (grad, u, given, grad_u.numpy())]

    def some(turn: Turn) -> None:
        grads, membranes, surrogates, out = flat
        stbp_loops.stbp_scan_backward(own, grads, membranes, surrogates, constants, out, grad.shape[2], turn)

    threads.share(len(grad), some)
    return grad_u[:, :, :neurons].contiguous()


def weight_gradient(trace: Floats, delay: int, trains: Trains, neurons: int) -> Tensor:
    """Sum over samples and steps of trace(t + delay) spikes(t), (N, I), stored input by input; `trace` (B, T, P)."""
    _, steps, padded = trace.shape
    inputs = trains.first.shape[1] - 1
    gradient = torch.empty(inputs, padded)
    flat, out, strips = trace.reshape(-1), gradient.numpy().reshape(-1), -(-inputs // stbp_loops.INPUTS)
    threads.share(strips, lambda turn: stbp_loops.weight_gradient(flat, delay, steps, trains, padded, out, turn))
    return unpadded(gradient, neurons)
