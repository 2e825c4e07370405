"""Weighted spikes of a layer at every step, for neurons whose loops begin there; and the gradients of such a sum.

The loops of STBP compute them: a neuron that forgets within a step and cannot fire has its input as its membrane.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snnrun.compiled import threads
from snnrun.compiled.turns import Turn
from snnrun.kernels.cpu import image_stbp_loops, stbp_loops
from snnrun.kernels.cpu.arrays import as_rows, as_words, padded_size
from snnrun.kernels.cpu.constants import NO_FLOATS, stbp_constants
from snnrun.kernels.cpu.image_layout import convolution
from snnrun.kernels.cpu.images import bits_of, most_spikes
from snnrun.kernels.cpu.stbp_images import room_for_forward
from snnrun.kernels.cpu.usual_loops import room_for_steps
from snnrun.kernels.neuron import Stbp, Window
from snnrun.kernels.packed import words

_SUM = Stbp(v_th=float(np.finfo(np.float32).max), decay=0.0)


def dense_drive(spikes_in: Tensor, weight: Tensor) -> Tensor:
    """W s_in at every step, (B, T, P), from bits (B, T, W) and weights (N, I); 0 beyond the last neuron."""
    batch, steps, _ = spikes_in.shape
    padded, inputs = padded_size(len(weight)), as_words(spikes_in)
    layer = stbp_loops.StbpLayer(as_rows(weight), np.zeros(padded, np.float32), NO_FLOATS, padded, stbp_constants(_SUM))
    driven = torch.empty(batch, steps, padded)
    none, n = np.empty((batch, steps, words(padded)), np.uint64), np.empty((batch, padded), np.float32)
    out = driven.numpy().reshape(-1)

    def some(turn: Turn) -> None:
        stbp_loops.stbp_forward(inputs, layer, none, n, out, room_for_steps(inputs), turn)

    threads.share(batch, some)
    return driven


def conv_drive(spikes_in: Tensor, weight: Tensor, window: Window) -> Tensor:
    """The same for a convolution with weights (K, C, height, width), after averages if `window.pool` > 1: (B, T, P)."""
    batch, steps, _ = spikes_in.shape
    inputs, layer = bits_of(spikes_in), convolution(weight, window, 1.0 / window.pool**2)
    by_lane, constants = np.zeros(64 * layer.layout.blocks, np.float32), stbp_constants(_SUM)
    driven, most = torch.empty(batch, steps, window.neurons), most_spikes(inputs)
    none = np.zeros((batch, steps, words(window.neurons)), np.uint64)
    n, out = np.zeros((batch, window.neurons), np.float32), driven.numpy().reshape(-1)

    def some(turn: Turn) -> None:
        room = room_for_forward(inputs, most, layer)
        image_stbp_loops.stbp_conv_forward(inputs, layer, by_lane, constants, none, n, out, *room, turn)

    threads.share(batch, some)
    missing = padded_size(window.neurons) - window.neurons
    return torch.nn.functional.pad(driven, (0, missing)) if missing else driven
