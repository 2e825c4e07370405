"""The functions of the backend for STBP."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snnrun.compiled import parallel, threads
from snnrun.compiled.jit import Floats, Indices, Words
from snnrun.compiled.turns import Turn
from snnrun.kernels import reference
from snnrun.kernels.cpu import stbp_backward_loops, stbp_gradient_loops, stbp_loops
from snnrun.kernels.cpu.arrays import (
    MOST_OF_IMAGES,
    aligned,
    as_floats,
    as_rows,
    as_words,
    pad,
    padded_size,
    room_for_spikes,
    sort_by_neuron,
    sort_exceptions,
    unpadded,
)
from snnrun.kernels.cpu.constants import GIVEN, NO_FLOATS, stbp_constants
from snnrun.kernels.cpu.spike_loops import Trains
from snnrun.kernels.cpu.stbp_backward_loops import SQUARE, Scan, room_below
from snnrun.kernels.cpu.stbp_gradient_loops import INPUTS, Errors, room_for_busy
from snnrun.kernels.cpu.usual_loops import Exceptions, room_for_steps
from snnrun.kernels.neuron import Stbp
from snnrun.kernels.packed import words

# The errors of so many floats at a time, or of one sample, are kept until the weights have their share.
TRACE = 2**21
# Threads share a gradient in at least so many strips of inputs each.
STRIPS = 3
_ALL = np.zeros((0, 0, 0), np.uint64)  # no bits: every input gets its error


def stbp_forward(
    spikes_in: Tensor, weight: Tensor, bias: Tensor | None, recurrent_weight: Tensor | None, neuron: Stbp
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.stbp_forward`."""
    batch, steps, _ = spikes_in.shape
    neurons, padded = len(weight), padded_size(len(weight))
    inputs = as_words(spikes_in)
    offset = np.zeros(padded, np.float32) if bias is None else pad(bias[None])[0]
    loop = NO_FLOATS if recurrent_weight is None else as_rows(recurrent_weight)
    spikes = torch.empty(batch, steps, words(neurons), dtype=torch.int64)
    counts, membrane = torch.zeros(batch, padded), torch.empty(batch, steps, neurons)
    layer = stbp_loops.StbpLayer(as_rows(weight), offset, loop, neurons, stbp_constants(neuron))
    out, n, u = as_words(spikes), counts.numpy(), membrane.numpy().reshape(-1)

    def some(turn: Turn) -> None:
        if recurrent_weight is None:
            stbp_loops.stbp_forward(inputs, layer, out, n, u, room_for_steps(inputs), turn)
            return
        room = room_for_spikes(inputs), room_for_spikes(out), np.zeros(padded, np.float32)
        stbp_loops.stbp_coupled(inputs, layer, out, n, u, *room, turn)

    threads.share(batch, some)
    return spikes, counts[:, :neurons].contiguous(), membrane


def stbp_near(membrane: Tensor, neuron: Stbp) -> Tensor:
    """See `reference.stbp_near`."""
    batch, steps, neurons = membrane.shape
    constants = stbp_constants(neuron)
    if constants.surrogate == GIVEN:
        return reference.stbp_near(membrane, neuron)
    near = torch.empty(batch, steps, words(neurons), dtype=torch.int64)
    u, out = as_floats(membrane).reshape(-1), as_words(near, MOST_OF_IMAGES)
    threads.share(batch, lambda turn: stbp_loops.stbp_near(u, neurons, constants, out, turn))
    return near


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
    near_in: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `reference.stbp_backward`. Some samples at a time, so that their dL/du needs little memory."""
    (batch, steps, neurons), inputs, padded = membrane.shape, weight.shape[1], padded_size(len(weight))
    grad_in = torch.empty((batch, steps, inputs) if wants_input else (batch, 0, 0))
    gradient = torch.zeros(inputs if wants_weight else 0, padded)
    loops = torch.zeros(neurons if wants_weight and recurrent_weight is not None else 0, padded)
    sums = torch.empty(batch, padded)
    trains = sort_exceptions(spikes_in, inputs) if wants_weight else None
    own = never_usual(sort_by_neuron(spikes[:, :-1], neurons)) if len(loops) else None
    rows, loop = as_rows(weight), NO_FLOATS if recurrent_weight is None else as_rows(recurrent_weight)
    parts = samples_at_once(batch, steps * padded)
    trace = aligned((parts[0].stop * steps + SQUARE) * padded)
    for some in parts:
        scan = scan_of(grad_spikes[some], spikes[some], membrane[some], loop, neuron)
        below = grad_in.numpy()[some].reshape(-1), _ALL if near_in is None else as_words(near_in[some])
        totals = sums.numpy()[some].reshape(-1)
        _scan_back(scan, trace, totals, rows, inputs if wants_input else 0, *below)
        for delay, of, total in ((0, trains, gradient), (1, own, loops)):
            if of is not None:
                part = of._replace(first=of.first[some], usual=of.usual[some])
                add_gradient(Errors(trace, totals, steps, delay), part, total)
    if not wants_weight:
        return grad_in, sums.new_zeros(0, 0), sums.new_zeros(0), sums.new_zeros(0, 0)
    grad_recurrent = unpadded(loops, neurons) if len(loops) else sums.new_zeros(0, 0)
    return grad_in, unpadded(gradient, neurons), sums.sum(dim=0)[:neurons], grad_recurrent


def samples_at_once(batch: int, floats: int) -> list[slice]:
    """The samples in parts whose traces, of so many floats each, fit into TRACE; one sample at least."""
    size = -(-batch // -(-batch * floats // TRACE))
    return [slice(start, min(start + size, batch)) for start in range(0, batch, size)]


def scan_of(grad_spikes: Tensor, spikes: Tensor, membrane: Tensor, loop: Floats, neuron: Stbp) -> Scan:
    """The arrays of the recursion; dL/do that is the same in all steps, as of the counts, is taken once."""
    neurons, constants = membrane.shape[2], stbp_constants(neuron)
    given = as_floats(reference.surrogate(membrane, neuron)) if constants.surrogate == GIVEN else NO_FLOATS
    same = grad_spikes.stride(1) == 0
    flat = [as_floats(part).reshape(-1) for part in (grad_spikes[:, 0] if same else grad_spikes, membrane)]
    own = as_words(spikes, MOST_OF_IMAGES)
    return Scan(own, flat[0], same, flat[1], given.reshape(-1), loop, neurons, padded_size(neurons), constants)


def _scan_back(scan: Scan, trace: Floats, sums: Floats, rows: Floats, inputs: int, error: Floats, near: Words) -> None:
    def some(turn: Turn) -> None:
        looped = np.empty(scan.padded if len(scan.recurrent) else 0, np.float32)
        below = room_below(rows, inputs, scan.padded, near, error)
        stbp_backward_loops.stbp_backward(scan, trace, sums, looped, room_for_spikes(scan.words), below, turn)

    threads.share(len(scan.words), some)


def trace_of(
    grad_spikes: Tensor, spikes: Tensor, membrane: Tensor, loop: Floats, neuron: Stbp
) -> tuple[Floats, Floats]:
    """The trace of dL/du, see `reference.stbp_scan_backward` and `room_below`, and its sums over time (B, P).

    It has rows of P, 0 beyond the last neuron.
    """
    scan = scan_of(grad_spikes, spikes, membrane, loop, neuron)
    (batch, steps, _), padded = membrane.shape, scan.padded
    trace, sums = aligned((batch * steps + SQUARE) * padded), np.empty((batch, padded), np.float32)
    _scan_back(scan, trace, sums.reshape(-1), NO_FLOATS, 0, NO_FLOATS, _ALL)
    return trace, sums


def add_gradient(errors: Errors, exceptions: Exceptions, gradient: Tensor) -> None:
    """Add the sum over samples and steps of trace(t + delay) spikes(t) to (I, P)."""
    inputs, padded = gradient.shape
    strips, out = strips_of(exceptions, inputs), gradient.numpy().reshape(-1)
    widest = int(np.diff(strips).max())

    def some(turn: Turn) -> None:
        room = room_for_busy(widest)
        stbp_gradient_loops.weight_gradient(errors, exceptions, padded, strips, out, room, turn)

    threads.share(len(strips) - 1, some)


def strips_of(exceptions: Exceptions, inputs: int) -> Indices:
    """Where strips of inputs with about as many exceptions each begin; the last is the number of inputs.

    The gradient of an input does not depend on its strip.
    """
    bounds = [*range(0, inputs, INPUTS), inputs]
    if parallel.threads() > 1:
        until = (exceptions.first - exceptions.first[:, :1]).sum(axis=0)
        shares = np.arange(1, STRIPS * parallel.threads()) / (STRIPS * parallel.threads())
        bounds += until.searchsorted(shares * until[-1]).tolist()
    return np.array(sorted({*bounds}), np.int32)


def weight_gradient(trace: Floats, delay: int, steps: int, trains: Trains, neurons: int) -> Tensor:
    """Sum over samples and steps of trace(t + delay) spikes(t), (N, I), stored input by input; `trace` in rows of P."""
    gradient = torch.zeros(trains.first.shape[1] - 1, padded_size(neurons))
    add_gradient(Errors(trace, NO_FLOATS, steps, delay), never_usual(trains), gradient)
    return unpadded(gradient, neurons)


def never_usual(trains: Trains) -> Exceptions:
    """The same spikes, of inputs none of which fires usually."""
    batch, ends = trains.first.shape
    return Exceptions(*trains, np.zeros((batch, words(ends - 1)), np.uint64))
