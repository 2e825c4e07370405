"""The functions of the backend for the integrate-and-fire neurons of Lee et al. 2016."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snnrun.compiled import threads
from snnrun.compiled.turns import Turn
from snnrun.kernels.cpu import wta_loops
from snnrun.kernels.cpu.arrays import check_type, pad
from snnrun.kernels.cpu.constants import wta_constants
from snnrun.kernels.cpu.drives import conv_drive, dense_drive
from snnrun.kernels.cpu.images import bits_of
from snnrun.kernels.neuron import Window, Wta
from snnrun.kernels.packed import words


def wta_forward(spikes_in: Tensor, weight: Tensor, threshold: Tensor, neuron: Wta) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.wta_forward`."""
    return _scan(dense_drive(spikes_in, weight), threshold, neuron)


def wta_conv_forward(
    spikes_in: Tensor, weight: Tensor, threshold: Tensor, window: Window, neuron: Wta
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.wta_conv_forward`."""
    each = threshold.repeat_interleave(window.neurons // window.kernels)
    return _scan(conv_drive(spikes_in, weight, window), each, neuron)


def trace(spikes: Tensor, neurons: int, neuron: Wta, dtype: torch.dtype = torch.float32) -> Tensor:
    """See `reference.trace`."""
    check_type(dtype)
    batch, steps, _ = spikes.shape
    weights = (neuron.decay ** np.arange(steps - 1, -1, -1.0)).astype(np.float32)
    traces, bits = torch.zeros(batch, neurons), bits_of(spikes)
    out = traces.numpy()
    threads.share(batch, lambda turn: wta_loops.trace(bits, weights, out, turn))
    return traces


def _scan(driven: Tensor, threshold: Tensor, neuron: Wta) -> tuple[Tensor, Tensor, Tensor]:
    """Bits, counts and traces of the neurons (N,) with these thresholds, from their weighted spikes (B, T, P)."""
    batch, steps, padded = driven.shape
    neurons, thresholds = len(threshold), pad(threshold[None])[0]
    spikes = torch.empty(batch, steps, words(neurons), dtype=torch.int64)
    counts, traces = torch.zeros(2, batch, padded).unbind()
    constants, out, flat = wta_constants(neuron), bits_of(spikes), driven.numpy().reshape(-1)
    n, left = counts.numpy(), traces.numpy()

    def some(turn: Turn) -> None:
        state = wta_loops.room_for_state(padded)
        wta_loops.wta_scan(neurons, thresholds, constants, state, flat, out, n, left, turn)

    threads.share(batch, some)
    return spikes, counts[:, :neurons].contiguous(), traces[:, :neurons].contiguous()
