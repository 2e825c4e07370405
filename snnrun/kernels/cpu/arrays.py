"""Turns tensors into the arrays of the loops, and back."""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from snnrun.compiled import parallel, threads
from snnrun.compiled.jit import Counts, Flags, Floats, Indices, Places, Times, Words
from snnrun.compiled.turns import Turn
from snnrun.kernels.cpu import spike_loops, usual_loops
from snnrun.kernels.cpu.forward_loops import Fours
from snnrun.kernels.cpu.spike_loops import ROOM, Trains
from snnrun.kernels.cpu.usual_loops import PLANES, Exceptions
from snnrun.kernels.neuron import Synapses
from snnrun.kernels.packed import BITS, words

# A batch's gradient is added up in parts with these shares of the samples, for any number of threads. A large batch has
# more parts, so that a thread on a slower core can do less. In a small batch they would cost more than they save.
SHARES, SHARES_OF_LARGE, LARGE = (1, 1), (6, 6, 2, 2, 1, 1), 64
# Lists of steps and neurons have 16-bit numbers; lists of neurons of images and of a batch's spikes have 32-bit ones.
MOST, MOST_OF_IMAGES = 2**16, 2**31 - 64


def sort_by_neuron(spikes: Tensor, neurons: int) -> Trains:
    """Spike times, neuron by neuron, from bits (B, T, W); ValueError if 32-bit numbers cannot count the spikes."""
    words, (times, first) = _room_to_sort(spikes, neurons)

    def some(turn: Turn) -> None:
        spike_loops.sort_by_neuron(words, times, first, np.empty(words.shape[1] + 63, np.uint64), turn)

    threads.share(len(words), some)
    return Trains(times, first)


def sort_exceptions(spikes: Tensor, inputs: int) -> Exceptions:
    """The steps in which inputs are not as usual, from bits (B, T, W); ValueError as in `sort_by_neuron`."""
    words, room = _room_to_sort(spikes, inputs)
    exceptions = Exceptions(*room, np.empty((words.shape[0], words.shape[2]), np.uint64))

    def some(turn: Turn) -> None:
        block, planes = np.empty(words.shape[1] + 63, np.uint64), np.empty(PLANES, np.uint64)
        usual_loops.sort_exceptions(words, exceptions, block, planes, turn)

    threads.share(len(words), some)
    return exceptions


def _room_to_sort(spikes: Tensor, neurons: int) -> tuple[Words, Trains]:
    """Bits as an array, and room for their times, in which only the first place of each sample is written."""
    trains = as_words(spikes, most=MOST_OF_IMAGES)
    begin = np.concatenate([[0], np.cumsum(spikes_of(trains) + ROOM)])
    if begin[-1] > MOST_OF_IMAGES:
        raise ValueError(
            f"the cpu kernels take at most {MOST_OF_IMAGES:,} spikes a batch, not {begin[-1]:,}: take fewer samples"
        )
    times = np.empty(begin[-1], np.uint16)
    first = np.empty((len(trains), neurons + 1), np.int32)
    first[:, 0] = begin[:-1]
    return trains, Trains(times, first)


def spikes_of(trains: Words) -> Counts:
    """Number of spikes of each sample, (B,)."""
    totals = np.empty(len(trains), np.int64)
    threads.share(len(trains), lambda turn: spike_loops.total_spikes(trains, totals, turn))
    return totals


def padded_size(neurons: int) -> int:
    """P: the number of neurons rounded up to blocks of 64, of which the last may have 16 or 32."""
    rest = neurons % 64
    return neurons - rest + next(width for width in (0, 16, 32, 64) if rest <= width)


def aligned_zeros(*shape: int) -> Floats:
    """Zeros whose first is at the start of a cache line, as loads of whole registers like it."""
    zeros: Floats = torch.zeros(shape).numpy()
    return zeros


def room_for_spikes(words: Words) -> Times:
    """Room for the neurons that fire in a step."""
    return np.empty(64 * words.shape[2] + ROOM, np.uint16)


def aligned(floats: int) -> Floats:
    """Room for so many floats that begins with a cache line; NumPy's begins anywhere, and loads take twice as long."""
    room: Floats = torch.empty(floats).numpy()
    return room


def room_for_sample(words: Words) -> tuple[Times, Indices]:
    """Room for all spikes of a sample, of which only as many as there are is touched, and for where its steps begin."""
    steps = words.shape[1]
    return np.empty(64 * words.shape[2] * steps + ROOM, np.uint16), np.empty(steps + 1, np.int32)


def as_words(spikes: Tensor, most: int = MOST) -> Words:
    """The bits (B, T, W) as an array; ValueError for more than 2**16 steps or more than `most` neurons."""
    check_steps(spikes.shape[1])
    if spikes.shape[2] > words(most):
        raise ValueError(f"the cpu kernels take at most {most} neurons or inputs, not {BITS * spikes.shape[2]}")
    return spikes.contiguous().numpy().view(np.uint64)


def check_steps(steps: int) -> int:
    """The steps; ValueError for more than 2**16."""
    if steps > MOST:
        raise ValueError(f"the cpu kernels take at most {MOST} steps, not {steps}")
    return steps


def as_floats(tensor: Tensor) -> Floats:
    """A float32 tensor as a contiguous array."""
    check_type(tensor.dtype)
    array: Floats = tensor.detach().contiguous().numpy()
    return array


def check_type(dtype: torch.dtype) -> None:
    """Raise ValueError if the type is not float32."""
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
    """The weights (N, I) as rows by input, (I * P,); a view if the layer stores them so and N fills its blocks."""
    return pad(weight.T).reshape(-1)


class Groups(NamedTuple):
    """Recurrent synapses grouped by pre-neuron: where each group begins, (N + 1,), and the post-neurons, (S,).

    The same again in fours: synapses to place P, where there is no neuron, fill each group up to a multiple of four.
    `place` (S,) has the places of the synapses among them.
    """

    first: Indices
    post: Indices
    first_of_fours: Indices
    post_of_fours: Places
    place: Places


# The groups by the tensor of post-neurons, for as long as it lives; a network keeps the same tensor in every step.
_groups: WeakIdKeyDictionary = WeakIdKeyDictionary()


def groups_of(recurrent: Synapses, neurons: int) -> Groups:
    """The groups of a layer's synapses, computed once for each tensor of post-neurons."""
    known: Groups | None = _groups.get(recurrent.post)  # type: ignore[no-untyped-call]
    if known is None or len(known.first) != neurons + 1:
        _groups[recurrent.post] = known = _group(recurrent, neurons)
    return known


def _group(recurrent: Synapses, neurons: int) -> Groups:
    first = np.zeros(neurons + 1, np.int32)
    sizes = np.bincount(recurrent.pre.numpy(), minlength=neurons)
    np.cumsum(sizes, out=first[1:])
    post = recurrent.post.numpy().astype(np.int32)
    first_of_fours = np.concatenate([[0], np.cumsum(-(-sizes // 4) * 4)]).astype(np.int32)
    place = (np.arange(len(post)) + np.repeat(first_of_fours[:-1] - first[:-1], sizes)).astype(np.uint32)
    post_of_fours = np.full(first_of_fours[-1], padded_size(neurons), np.uint32)
    post_of_fours[place] = post
    return Groups(first, post, first_of_fours, post_of_fours, place)


def in_fours(recurrent: Synapses, neurons: int) -> Fours:
    """The groups filled up to whole fours, with their weights."""
    groups = groups_of(recurrent, neurons)
    weights = np.zeros(len(groups.post_of_fours), np.float32)
    weights[groups.place] = as_floats(recurrent.weight)
    return Fours(groups.first_of_fours, groups.post_of_fours, weights)


def pieces_of(wanted: Flags, words: int, whole: bool = False) -> tuple[Indices, int]:
    """The pieces of a batch's gradient, see `pair_loops.spsp_backward`, (K, 5), and the number of its parts.

    Each part has consecutive samples, with its share of those that are `wanted` (B,). Large parts come first; the small
    ones are left for threads that finish early. If there are many threads, several share a part's `words` of inputs,
    unless a thread needs the `whole` of a sample.
    """
    return _pieces_of(wanted.tobytes(), words, 1 if whole else parallel.threads())


@lru_cache
def _pieces_of(flags: bytes, words: int, threads: int) -> tuple[Indices, int]:
    wanted = np.frombuffer(flags, bool)
    shares = SHARES if len(wanted) < LARGE else SHARES_OF_LARGE
    done = wanted.cumsum()
    ends = done.searchsorted([done[-1] * share / sum(shares) for share in itertools.accumulate(shares[:-1])]) + 1
    bounds = [0, *sorted({*ends.tolist()} - {len(wanted)}), len(wanted)]
    slices = parallel.slices(words, -(-max(shares) * threads // sum(shares)))
    pieces = [(part, *slice_, *samples) for part, samples in enumerate(itertools.pairwise(bounds)) for slice_ in slices]
    return np.array(pieces, np.int32), len(bounds) - 1


def parts_of(batch: int, most: int) -> Indices:
    """The ranges of samples, (K, 2), that are added up separately; there are at most `most`."""
    size = -(-batch // most)
    return np.array([(start, min(start + size, batch)) for start in range(0, batch, size)], np.int32)
