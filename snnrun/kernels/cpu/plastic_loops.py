"""The loops of `reference.plastic`: liquids whose input synapses learn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from snnrun.compiled.jit import Floats, Indices, Times, Words, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.kernels.cpu.constants import LifConstants
from snnrun.kernels.cpu.spike_loops import list_spikes


class Wires(NamedTuple):
    """The synapses of L liquids of N `neurons`.

    Liquid l has the inputs edges[l] ... edges[l + 1]. The plastic synapses of input j are at first[j] ... first[j + 1],
    to the neurons `post`; those of neuron i are `synapse[own[i]:own[i + 1]]`, from the inputs `pre`, also by neuron.
    The recurrent ones are by pre-neuron: first_recurrent, post_recurrent, weight_recurrent.
    """

    neurons: int
    edges: Indices
    first: Indices
    post: Indices
    own: Indices
    synapse: Indices
    pre: Indices
    first_recurrent: Indices
    post_recurrent: Indices
    weight_recurrent: Floats


class Plasticity(NamedTuple):
    """The constants of `plastic.Stdp`; `trace` (T,) has x by the steps since a spike arrived. `learns` is 0 or 1."""

    lif: LifConstants
    trace: Floats
    rate: np.float32
    offset: np.float32
    w_max: np.float32
    power: np.float32
    rise: np.float32
    keep: np.float32
    total: np.float32
    learns: int


class Adapted(NamedTuple):
    """What is kept from sample to sample: `weight` (S,) of the plastic synapses, and `raised` (L N,) of thresholds."""

    weight: Floats
    raised: Floats


class Room(NamedTuple):
    """Room for a liquid and a sample: `u`, `a` (N,), the first step `free` (N,) after a hold, the step `last` (I,) in
    which the last spike of an input arrived or -1, and lists of the spikes of a step and of the one before it.
    """

    u: Floats
    a: Floats
    free: Indices
    last: Indices
    inputs: Times
    fired: Indices


@part
def send(t: int, count: int, low: int, high: int, base: int, wires: Wires, weight: Floats, room: Room) -> None:
    """Add the weights of the input spikes of a step to the currents, and note when they arrived."""
    for k in range(count):
        j = np.int64(room.inputs[k])
        if low <= j < high:
            room.last[j] = t
            for s in range(wires.first[j], wires.first[j + 1]):
                room.a[wires.post[s] - base] += weight[s]


@part
def send_around(count: int, base: int, wires: Wires, room: Room) -> None:
    """Add the weights of the recurrent synapses from the neurons fired[:count] to the currents."""
    for k in range(count):
        n = base + room.fired[k]
        for s in range(wires.first_recurrent[n], wires.first_recurrent[n + 1]):
            room.a[wires.post_recurrent[s] - base] += wires.weight_recurrent[s]


@part
def advance_membranes(t: int, base: int, lif: LifConstants, raised: Floats, room: Room) -> bool:
    """Move all membranes by a step; returns whether one is above its threshold."""
    most = np.float32(-1)
    for i in range(room.u.shape[0]):
        x = room.u[i] * lif.decay_m + room.a[i] * lif.rise
        room.u[i] = x if t >= room.free[i] else np.float32(0)
        most = max(most, room.u[i] - (lif.threshold + raised[base + i]))
    return bool(most > np.float32(0))


@part
def change(n: int, t: int, wires: Wires, rule: Plasticity, weight: Floats, last: Indices) -> None:
    """Change the plastic synapses of neuron n, which fires in step t."""
    for k in range(wires.own[n], wires.own[n + 1]):
        s, arrived = wires.synapse[k], last[wires.pre[k]]
        x = rule.trace[t - arrived] if arrived > 0 else np.float32(0)
        w, room = weight[s], rule.w_max - weight[s]
        if rule.power != np.float32(1):  # a power takes longer than all else here
            room = room**rule.power
        w += rule.rate * (x - rule.offset) * room
        weight[s] = min(max(w, np.float32(0)), rule.w_max)


@part
def rescale(n: int, wires: Wires, rule: Plasticity, weight: Floats) -> None:
    """Scale the plastic weights of neuron n to their total."""
    sum_ = np.float32(0)
    for k in range(wires.own[n], wires.own[n + 1]):
        sum_ += weight[wires.synapse[k]]
    if sum_ > np.float32(0):
        factor = rule.total / sum_
        for k in range(wires.own[n], wires.own[n + 1]):
            weight[wires.synapse[k]] = min(weight[wires.synapse[k]] * factor, rule.w_max)


@part
def present(
    words_in: Words, b: int, k: int, wires: Wires, adapted: Adapted, rule: Plasticity, room: Room, words: Words
) -> None:
    """Sample b to liquid k; `words` (B, L, T, W) of it are written."""
    base, low, high = k * wires.neurons, wires.edges[k], wires.edges[k + 1]
    for i in range(wires.neurons):
        room.u[i] = room.a[i] = np.float32(0)
        room.free[i] = 0
    for j in range(low, high):
        room.last[j] = -1
    for t in range(words.shape[2]):
        for w in range(words.shape[3]):
            words[b, k, t, w] = np.uint64(0)
    fired = 0
    for t in range(1, words_in.shape[1]):
        for i in range(wires.neurons):
            room.a[i] *= rule.lif.decay_s
        if rule.learns:
            for i in range(base, base + wires.neurons):
                adapted.raised[i] *= rule.keep
        send(t, list_spikes(words_in, b, t - 1, room.inputs), low, high, base, wires, adapted.weight, room)
        send_around(fired, base, wires, room)
        fired = 0
        if not advance_membranes(t, base, rule.lif, adapted.raised, room):
            continue
        for i in range(wires.neurons):
            if room.u[i] > rule.lif.threshold + adapted.raised[base + i]:
                room.u[i] = np.float32(0)
                room.free[i] = t + rule.lif.t_ref + 1
                room.fired[fired] = i
                fired += 1
                words[b, k, t, i // 64] |= np.uint64(1) << np.uint64(i % 64)
                if rule.learns:
                    adapted.raised[base + i] += rule.rise
                    change(base + i, t, wires, rule, adapted.weight, room.last)


@jit
def liquid_learn(
    words_in: Words, wires: Wires, adapted: Adapted, rule: Plasticity, room: Room, words: Words, turn: Turn
) -> None:
    """The liquids of a turn of `reference.liquid_learn`, each with all samples in their order; `adapted` changes."""
    while True:
        k = take(turn)
        if k == NONE:
            return
        for b in range(words_in.shape[0]):
            present(words_in, b, k, wires, adapted, rule, room, words)
            if rule.total > np.float32(0):
                for n in range(k * wires.neurons, (k + 1) * wires.neurons):
                    rescale(n, wires, rule, adapted.weight)


@jit
def liquid_respond(
    words_in: Words, wires: Wires, adapted: Adapted, rule: Plasticity, room: Room, words: Words, turn: Turn
) -> None:
    """The samples of a turn of `reference.liquid_respond`, each to all liquids."""
    while True:
        b = take(turn)
        if b == NONE:
            return
        for k in range(wires.edges.shape[0] - 1):
            present(words_in, b, k, wires, adapted, rule, room, words)
