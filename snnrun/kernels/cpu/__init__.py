"""The kernels for CPUs, compiled by Numba. Spikes drive them; threads share samples and words of inputs.

- A spike adds the weight row of its neuron; a silent neuron costs nothing. Layers store their weights pre-neuron first
  (see `network.Layer`), so that the kernels and the optimiser use the same rows without a copy.
- The S-PSP of an input neuron is the sum of the readout's rows at its spikes. It stays in registers until it is added
  to the gradient and to the error below: nothing of size (N, I) is stored for a sample. Neurons that are silent in a
  sample, and samples without error, are left out, see `active_loops`.
- Convolutions do the same row by row of their output: a spike adds a run of taps, see `conv_layout`; STBP's do so strip
  by strip, see `image_layout`. In a small window tables have the sum of all taps that spikes choose, see
  `conv_table_loops`. These convolutions and the pools after them pass each other their spikes as `columns`.
- Recurrent S-PSPs and the recurrent system use the list of existing synapses. Gauss-Seidel sweeps solve the system to
  float32 rounding; the reference solves it if they do not converge.

The order of sums over samples does not depend on the number of threads (see `arrays.pieces_of`): 1, 2 or N give the
same bits. Numba compiles at the first call on a machine and caches the result. Tensors are float32.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from snnrun.compiled import threads
from snnrun.compiled.turns import Turn
from snnrun.kernels import reference
from snnrun.kernels.cpu import forward_loops, pair_loops, recurrent_loops, spike_loops
from snnrun.kernels.cpu.active_loops import room_for_active
from snnrun.kernels.cpu.alif import alif_scan, alif_scan_backward
from snnrun.kernels.cpu.arrays import (
    as_floats,
    as_rows,
    as_words,
    check_type,
    groups_of,
    in_fours,
    pad,
    padded_size,
    pieces_of,
    room_for_sample,
    room_for_spikes,
    unpadded,
)
from snnrun.kernels.cpu.constants import NO_FLOATS, lif_constants, rule_constants
from snnrun.kernels.cpu.currents import (
    current_drive,
    lif_driven,
    readout_sums,
    stbp_driven,
    stbp_driven_backward,
)
from snnrun.kernels.cpu.delays import advanced, delay_errors, delayed
from snnrun.kernels.cpu.images import conv_activation, conv_backward, conv_forward, pool_backward, pool_forward
from snnrun.kernels.cpu.plastic import liquid_learn, liquid_respond
from snnrun.kernels.cpu.readout_loops import room_for_readout
from snnrun.kernels.cpu.slopes import slope_sum
from snnrun.kernels.cpu.spike_loops import ROOM
from snnrun.kernels.cpu.srm import (
    srm_backward,
    srm_conv_backward,
    srm_conv_forward,
    srm_forward,
    srm_pool_backward,
    srm_pool_forward,
)
from snnrun.kernels.cpu.stbp import stbp_backward, stbp_forward, stbp_near
from snnrun.kernels.cpu.stbp_images import stbp_conv_backward, stbp_conv_forward
from snnrun.kernels.cpu.thinning import thin, thin_gradient
from snnrun.kernels.cpu.wta import trace, wta_conv_forward, wta_forward
from snnrun.kernels.neuron import Lif, Synapses
from snnrun.kernels.packed import words

__all__ = [
    "advanced",
    "alif_scan",
    "alif_scan_backward",
    "compiled_before",
    "conv_activation",
    "conv_backward",
    "conv_forward",
    "count_spikes",
    "coupling",
    "coupling_solve",
    "current_drive",
    "delay_errors",
    "delayed",
    "lif_driven",
    "lif_forward",
    "liquid_learn",
    "liquid_respond",
    "pool_backward",
    "pool_forward",
    "readout_sums",
    "recurrent_gradient",
    "recurrent_spsp",
    "slope_sum",
    "spsp_activation",
    "spsp_backward",
    "srm_backward",
    "srm_conv_backward",
    "srm_conv_forward",
    "srm_forward",
    "srm_pool_backward",
    "srm_pool_forward",
    "stbp_backward",
    "stbp_conv_backward",
    "stbp_conv_forward",
    "stbp_driven",
    "stbp_driven_backward",
    "stbp_forward",
    "stbp_near",
    "thin",
    "thin_gradient",
    "trace",
    "wta_conv_forward",
    "wta_forward",
]


# Spikes of a step in `row_addition_rate`: about as many as an image gives its input layer.
ROWS_AT_A_TIME = 40


def compiled_before() -> bool:
    """Whether an earlier run on this machine has left its compiled kernels."""
    folder = forward_loops.lif_forward.stats.cache_path
    return folder is not None and any(Path(folder).glob("forward_loops.lif_forward*.nbi"))


# ---- the functions of a backend -------------------------------------------------------------------------------------


def lif_forward(spikes_in: Tensor, weight: Tensor, recurrent: Synapses | None, lif: Lif) -> tuple[Tensor, Tensor]:
    """See `reference.lif_forward`."""
    batch, steps, _ = spikes_in.shape
    neurons, padded = len(weight), padded_size(len(weight))
    inputs, layer = as_words(spikes_in), forward_loops.Layer(as_rows(weight), padded, neurons, lif_constants(lif))
    spikes = torch.empty(batch, steps, words(neurons), dtype=torch.int64)
    counts = torch.empty(batch, padded)
    out, n = as_words(spikes), counts.numpy()
    fours = None if recurrent is None else in_fours(recurrent, neurons)

    def some(turn: Turn) -> None:
        if fours is None:
            forward_loops.lif_forward(inputs, layer, out, n, *room_for_sample(inputs), turn)
            return
        room = forward_loops.room_for_coupled(padded, inputs.shape[2], out.shape[2])
        forward_loops.coupled_forward(inputs, layer, fours, out, n, room, turn)

    threads.share(batch, some)
    return spikes, counts[:, :neurons].contiguous()


def count_spikes(spikes: Tensor, neurons: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """See `packed.count_spikes`."""
    check_type(dtype)
    counts = torch.empty(len(spikes), neurons)
    trains, out = as_words(spikes), counts.numpy()
    threads.share(len(trains), lambda turn: spike_loops.count_spikes(trains, np.empty(64, np.uint64), out, turn))
    return counts


def row_addition_rate(inputs: int, neurons: int) -> float:
    """Float additions per second of one thread that adds random rows of a float32 matrix (inputs, neurons) to a vector.

    The loops do at least this for each spike, so it bounds the speed of a layer of this shape on this core.
    """
    generator = np.random.default_rng(0)
    padded = padded_size(neurons)
    rows = generator.standard_normal(inputs * padded).astype(np.float32)
    index = generator.integers(inputs, size=20_000).astype(np.uint16)
    total = np.zeros(padded, np.float32)
    best = math.inf
    for _ in range(30):
        started = time.perf_counter()
        pair_loops.add_random_rows(rows, index, ROWS_AT_A_TIME, total)
        best = min(best, time.perf_counter() - started)
    return index.size * neurons / best


def spsp_activation(rule: str, lif: Lif, spikes_in: Tensor, spikes: Tensor, weight: Tensor) -> Tensor:
    """See `reference.spsp_activation`."""
    batch, steps, _ = spikes_in.shape
    padded = padded_size(len(weight))
    inputs, own, rows = as_words(spikes_in), as_words(spikes), as_rows(weight)
    constants = rule_constants(rule, lif, steps)
    activation = torch.zeros(batch, padded)
    out = activation.numpy()

    def some(turn: Turn) -> None:
        readout = room_for_readout(constants, steps, padded)
        pair_loops.spsp_activation(inputs, own, rows, padded, readout, room_for_spikes(inputs), out, turn)

    threads.share(batch, some)
    return activation[:, : len(weight)].contiguous()


def spsp_backward(
    rule: str,
    lif: Lif,
    spikes_in: Tensor,
    spikes: Tensor,
    gain: Tensor | None,
    credit: Tensor | None,
    weight: Tensor,
    gain_slope: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.spsp_backward`."""
    batch, steps, _ = spikes_in.shape
    neurons, inputs = weight.shape
    padded, trains, own = padded_size(neurons), as_words(spikes_in), as_words(spikes)
    gains, credits, slopes = (
        np.zeros((batch, 0), np.float32) if each is None else pad(each) for each in (gain, credit, gain_slope)
    )
    sloped = gain_slope is not None
    if sloped:
        gains = gains.copy()  # to be added to
    rows = NO_FLOATS if credit is None and not sloped else as_rows(weight)
    constants = rule_constants(rule, lif, steps)
    wanted = np.any([each.any(axis=1) for each in (gains, credits, slopes)], axis=0)
    pieces, parts = pieces_of(wanted, trains.shape[2], whole=sloped)
    places = inputs * padded if gain is not None else 0
    gradient, others = torch.empty(places), np.empty((parts - 1, places), np.float32)
    below = torch.zeros(batch, 0 if credit is None else inputs)
    total, errors = gradient.numpy(), pair_loops.Errors(gains, slopes, credits, below.numpy())

    def some(turn: Turn) -> None:
        room = pair_loops.room_for_backward(constants, steps, own.shape[2], inputs, sloped)
        pair_loops.spsp_backward(trains, own, errors, rows, padded, room, pieces, total, others, turn)

    threads.share(len(pieces), some)
    threads.share(-(-total.size // pair_loops.STRIP), lambda turn: pair_loops.add_parts(total, others, turn))
    gained = torch.from_numpy(gains[:, : neurons if sloped else 0])
    return unpadded(gradient.view(-1, padded), neurons if gain is not None else 0), below, gained.contiguous()


def recurrent_spsp(
    rule: str, lif: Lif, spikes: Tensor, recurrent: Synapses, neurons: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """See `reference.recurrent_spsp`."""
    check_type(dtype)
    batch, steps, _ = spikes.shape
    own, (first, post, *_) = as_words(spikes), groups_of(recurrent, neurons)
    constants = rule_constants(rule, lif, steps)
    e = torch.empty(batch, len(post))
    out = e.numpy()

    def some(turn: Turn) -> None:
        recurrent_loops.recurrent_spsp(
            own, first, post, room_for_readout(constants, steps, 64 * own.shape[2]),
            room_for_active(steps, own.shape[2]), recurrent_loops.room_to_keep(neurons, len(post)),
            np.empty(steps + ROOM, np.uint16), out, turn,
        )  # fmt: skip

    threads.share(batch, some)
    return e


def coupling(e: Tensor, counts: Tensor, recurrent: Synapses, v_th: float, silent_ratio: float) -> Tensor:
    """See `reference.coupling`."""
    values, n = as_floats(e), as_floats(counts)
    first, post, *_ = groups_of(recurrent, n.shape[1])
    theta, by_threshold = torch.empty_like(e), as_floats(recurrent.weight) / np.float32(v_th)
    out = theta.numpy()
    threads.share(
        len(n), lambda turn: recurrent_loops.coupling(values, n, first, post, by_threshold, silent_ratio, out, turn)
    )
    return theta


def coupling_solve(
    theta: Tensor, recurrent: Synapses, diagonal: Tensor, right: Tensor, self_coupling: bool = True
) -> Tensor:
    """See `reference.coupling_solve`."""
    values, diagonals, rights = as_floats(theta), as_floats(diagonal), as_floats(right)
    first, post, *_ = groups_of(recurrent, rights.shape[1])
    solution, solved = np.empty_like(rights), np.empty(len(rights), bool)

    def some(turn: Turn) -> None:
        own, kept = np.empty(rights.shape[1], np.float32), recurrent_loops.room_to_keep(rights.shape[1], len(post))
        systems = recurrent_loops.Systems(values, first, post, diagonals, rights, self_coupling, solution, own, kept)
        recurrent_loops.coupling_solve(systems, solved, turn)

    threads.share(len(rights), some)
    for b in np.flatnonzero(~solved):
        exact = reference.coupling_solve(
            theta[[b]].double(), recurrent, diagonal[[b]].double(), right[[b]].double(), self_coupling
        )
        solution[b] = exact[0].float().numpy()
    return torch.from_numpy(solution)


def recurrent_gradient(e: Tensor, gain: Tensor, recurrent: Synapses) -> Tensor:
    """See `reference.recurrent_gradient`."""
    values, gains, post = as_floats(e), as_floats(gain), groups_of(recurrent, gain.shape[1]).post
    gradient = torch.empty(len(post))
    out, strips = gradient.numpy(), -(-len(post) // recurrent_loops.SYNAPSES)
    threads.share(strips, lambda turn: recurrent_loops.recurrent_gradient(values, gains, post, out, turn))
    return gradient
