"""Between tensors and the arrays of the spike_loops."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from snnrun import parallel
from snnrun.jit import Counts, Flags, Floats, Indices, Places, Times, Words
from snnrun.kernels import reference
from snnrun.kernels.cpu import spike_loops
from snnrun.kernels.cpu.spike_loops import ROOM
from snnrun.kernels.neuron import THRESHOLD_SLACK, Lif, Synapses
from snnrun.kernels.packed import BITS, words

# A batch is added up in so many parts, whatever the number of threads.
PARTS = 2
# Steps and neurons are listed as 16-bit numbers, those of images as 32-bit ones.
MOST, MOST_OF_IMAGES = 2**16, 2**31 - 64
NO_FLOATS = np.zeros(0, np.float32)


class Trains(NamedTuple):
    """Spike times of the inputs, see `spike_loops.sort_by_neuron`: `times` (spikes,), `first` (B, I + 1)."""

    times: Times
    first: Indices


def sort_by_neuron(spikes: Tensor, neurons: int) -> Trains:
    """Spike times neuron by neuron from bits (B, T, W)."""
    trains = as_words(spikes, most=MOST_OF_IMAGES)
    begin = np.concatenate([[0], np.cumsum(spikes_of(trains) + ROOM)])
    times = np.empty(begin[-1], np.uint16)
    first = np.empty((len(trains), neurons + 1), np.int32)
    first[:, 0] = begin[:-1]
    chunks = parallel.ranges(len(trains))

    def some(k: int) -> None:
        block = np.empty(trains.shape[1] + 63, np.uint64)
        spike_loops.sort_by_neuron(trains, times, first, block, *chunks[k])

    parallel.each(len(chunks), some)
    return Trains(times, first)


def spikes_of(trains: Words) -> Counts:
    """Number of spikes of each sample, (B,)."""
    totals, chunks = np.empty(len(trains), np.int64), parallel.ranges(len(trains))
    parallel.each(len(chunks), lambda k: spike_loops.total_spikes(trains, totals, *chunks[k]))
    return totals


def padded_size(neurons: int) -> int:
    """P: so many neurons in blocks of 64, the last one of 16, 32 or 64."""
    rest = neurons % 64
    return neurons - rest + next(width for width in (0, 16, 32, 64) if rest <= width)


def room_for_spikes(words: Words) -> Times:
    """Room for the neurons that fire in a step."""
    return np.empty(64 * words.shape[2] + ROOM, np.uint16)


def room_for_readout(steps: int, width: int) -> tuple[Indices, Floats]:
    """What the readout of `width` neurons needs: the last spike of each of a block, and the readout itself."""
    return np.empty(64, np.int32), np.empty(steps * width, np.float32)


def as_words(spikes: Tensor, most: int = MOST) -> Words:
    """The bits (B, T, W) as an array; ValueError where there are more than 2**16 steps or `most` neurons."""
    if spikes.shape[1] > MOST:
        raise ValueError(f"the cpu kernels take at most {MOST} steps, not {spikes.shape[1]}")
    if spikes.shape[2] > words(most):
        raise ValueError(f"the cpu kernels take at most {most} neurons or inputs, not {BITS * spikes.shape[2]}")
    return spikes.contiguous().numpy().view(np.uint64)


def as_floats(tensor: Tensor) -> Floats:
    """A float32 tensor as a contiguous array."""
    check_type(tensor.dtype)
    array: Floats = tensor.detach().contiguous().numpy()
    return array


def check_type(dtype: torch.dtype) -> None:
    """ValueError for all but float32."""
    if dtype != torch.float32:
        raise ValueError(f"the cpu kernels compute in float32, not {dtype}")


def pad(tensor: Tensor) -> Floats:
    """(..., N) with its rows padded to P."""
    missing = padded_size(tensor.shape[-1]) - tensor.shape[-1]
    return as_floats(torch.nn.functional.pad(tensor, (0, missing)) if missing else tensor)


def unpadded(gradient: Tensor, neurons: int) -> Tensor:
    """A gradient (I, P) as (N, I), still stored input by input."""
    return gradient[:, :neurons].contiguous().T


def as_rows(weight: Tensor) -> Floats:
    """The weights (N, I) as rows by input, (I * P,): a view where the layer stores them so and N fills its blocks."""
    return pad(weight.T).reshape(-1)


def as_groups(recurrent: Synapses, neurons: int) -> tuple[Indices, Indices, Floats]:
    """Recurrent synapses grouped by pre-neuron: where each group begins (N + 1), post-neurons (S,), weights (S,)."""
    first = np.zeros(neurons + 1, np.int32)
    np.cumsum(np.bincount(recurrent.pre.numpy(), minlength=neurons), out=first[1:])
    return first, recurrent.post.numpy().astype(np.int32), as_floats(recurrent.weight)


def as_quads(recurrent: Synapses, neurons: int) -> tuple[Indices, Places, Floats]:
    """`as_groups`, each group filled up to whole fours with synapses of weight 0 to place P, where no neuron is."""
    first, post, weight = as_groups(recurrent, neurons)
    sizes = np.diff(first)
    filled = np.concatenate([[0], np.cumsum(-(-sizes // 4) * 4)]).astype(np.int32)
    place = np.arange(len(post)) + np.repeat(filled[:-1] - first[:-1], sizes)
    posts, weights = np.full(filled[-1], padded_size(neurons), np.uint32), np.zeros(filled[-1], np.float32)
    posts[place], weights[place] = post, weight
    return filled, posts, weights


def lif_constants(lif: Lif, slack: float = THRESHOLD_SLACK) -> Floats:
    """What the loops need of a neuron: both decays, 1 / tau_s, threshold less `slack`, t_ref."""
    values = (lif.decay_m, lif.decay_s, 1.0 / lif.tau_s, lif.v_th - slack, lif.t_ref)
    return np.array(values, np.float32)


def rule_constants(rule: str, lif: Lif, steps: int) -> tuple[Floats, Floats]:
    """Constants of a readout, and HM2-BP's kernel; see `readout_loops.hm2bp_readout`."""
    if rule == "strsbp":
        return lif_constants(lif), NO_FLOATS
    kernel, window, decay_s = reference.hm2bp_kernel(steps, lif)
    reach, decay_m = math.ceil(window), math.exp(-1.0 / lif.tau_m)
    values = (
        *(reach, decay_m, decay_s, kernel[1].item()),
        *(math.exp((lif.t_ref - 1) / lif.tau_m), math.exp((lif.t_ref - 1) / lif.tau_s)),
        *((decay_m - decay_s) / (1.0 - lif.tau_s / lif.tau_m), math.exp((lif.t_ref - reach - 0.5) / lif.tau_m)),
    )
    return np.append(lif_constants(lif), values).astype(np.float32), kernel.float().numpy()


def add_up(parts: list[Tensor]) -> Tensor:
    """Sum of the parts (I, P) of a gradient, which the first one holds then."""
    total = parts[0].numpy()
    for part in parts[1:]:
        total += part.numpy()
    return parts[0]


def parts_by_wanted(wanted: Flags) -> list[tuple[int, int]]:
    """`parts_of`, but each with about as many of the samples that are `wanted` (B,) as the others."""
    done = np.cumsum(wanted)
    bounds = [0, *(int(np.searchsorted(done, done[-1] * k / PARTS)) + 1 for k in range(1, PARTS)), len(wanted)]
    return [(start, stop) for start, stop in itertools.pairwise(bounds) if start < stop]


def parts_of(batch: int, parts: int = PARTS) -> list[tuple[int, int]]:
    """The ranges of samples, `parts` at most, that are added up apart."""
    size = -(-batch // parts)
    return [(start, min(start + size, batch)) for start in range(0, batch, size)]
