"""The functions of the backend for liquids whose input synapses learn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from snnrun.compiled import threads
from snnrun.compiled.jit import Indices, Words
from snnrun.compiled.turns import Turn
from snnrun.kernels.cpu import plastic_loops
from snnrun.kernels.cpu.arrays import as_floats, as_words, check_type
from snnrun.kernels.cpu.constants import lif_constants
from snnrun.kernels.cpu.plastic_loops import Adapted, Plasticity, Room, Wires
from snnrun.kernels.cpu.spike_loops import ROOM
from snnrun.kernels.packed import count_spikes, words
from snnrun.kernels.plastic import Liquids, Stdp


def liquid_learn(
    spikes_in: Tensor, liquids: Liquids, weight: Tensor, raised: Tensor, stdp: Stdp, rate: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `reference.liquid_learn`. Threads share the liquids."""
    check_type(weight.dtype)
    inputs, wires = as_words(spikes_in), wires_of(liquids)
    weight, raised = weight.clone(), raised.clone()
    adapted, rule = Adapted(as_floats(weight), as_floats(raised)), _rule(stdp, inputs.shape[1], rate)
    spikes, out = _room_for_spikes(inputs, liquids)

    def some(turn: Turn) -> None:
        plastic_loops.liquid_learn(inputs, wires, adapted, rule, _room(inputs, liquids), out, turn)

    threads.share(liquids.number, some)
    return spikes, _counts(spikes, liquids), weight, raised


def liquid_respond(
    spikes_in: Tensor, liquids: Liquids, weight: Tensor, raised: Tensor, stdp: Stdp
) -> tuple[Tensor, Tensor]:
    """See `reference.liquid_respond`. Threads share the samples."""
    check_type(weight.dtype)
    inputs, wires = as_words(spikes_in), wires_of(liquids)
    adapted, rule = Adapted(as_floats(weight), as_floats(raised)), _rule(stdp, inputs.shape[1], None)
    spikes, out = _room_for_spikes(inputs, liquids)

    def some(turn: Turn) -> None:
        plastic_loops.liquid_respond(inputs, wires, adapted, rule, _room(inputs, liquids), out, turn)

    threads.share(len(inputs), some)
    return spikes, _counts(spikes, liquids)


def wires_of(liquids: Liquids) -> Wires:
    """The synapses in the lists of the loops."""
    neurons, recurrent = liquids.number * liquids.neurons, liquids.recurrent
    by_neuron = torch.argsort(liquids.post, stable=True)
    return Wires(
        neurons=liquids.neurons,
        edges=np.array(liquids.edges, np.int32),
        first=_begin(liquids.pre, liquids.edges[-1]),
        post=_indices(liquids.post),
        own=_begin(liquids.post, neurons),
        synapse=_indices(by_neuron),
        pre=_indices(liquids.pre[by_neuron]),
        first_recurrent=_begin(recurrent.pre, neurons),
        post_recurrent=_indices(recurrent.post),
        weight_recurrent=as_floats(recurrent.weight),
    )


def _begin(owner: Tensor, number: int) -> Indices:
    """Where the synapses of each owner begin, (number + 1,)."""
    return np.concatenate([[0], np.cumsum(np.bincount(owner.numpy(), minlength=number))]).astype(np.int32)


def _indices(values: Tensor) -> Indices:
    return values.numpy().astype(np.int32)


def _rule(stdp: Stdp, steps: int, rate: float | None) -> Plasticity:
    singles = (rate or 0.0, stdp.offset, stdp.w_max, stdp.power, stdp.rise, stdp.keep, stdp.total)
    trace = np.exp(-np.arange(max(steps, 1)) / stdp.tau).astype(np.float32)
    return Plasticity._make([lif_constants(stdp.lif), trace, *map(np.float32, singles), int(rate is not None)])


def _room_for_spikes(inputs: Words, liquids: Liquids) -> tuple[Tensor, Words]:
    spikes = torch.empty(*inputs.shape[:1], liquids.number, inputs.shape[1], words(liquids.neurons), dtype=torch.int64)
    return spikes, spikes.numpy().view(np.uint64)


def _room(inputs: Words, liquids: Liquids) -> Room:
    u, a = np.empty((2, liquids.neurons), np.float32)
    free, fired = np.empty((2, liquids.neurons), np.int32)
    last = np.empty(64 * inputs.shape[2], np.int32)
    return Room(u, a, free, last, np.empty(64 * inputs.shape[2] + ROOM, np.uint16), fired)


def _counts(spikes: Tensor, liquids: Liquids) -> Tensor:
    return count_spikes(spikes.flatten(0, 1), liquids.neurons).view(len(spikes), -1)
