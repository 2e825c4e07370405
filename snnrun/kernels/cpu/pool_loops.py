"""The loops of spiking pools: `pool_forward`, `pool_backward`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from snnrun.compiled.jit import Flags, Floats, Indices, Words, jit, part
from snnrun.compiled.masks import drop, exceeding, load_mask, store_mask
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import GROUP, load, lowest_bit, splat, store, zeros16, zeros64
from snnrun.kernels.cpu.constants import LifConstants
from snnrun.kernels.cpu.forward_loops import LOOK, can_fire
from snnrun.kernels.cpu.readout_loops import Readout, read
from snnrun.kernels.cpu.spike_loops import Listed, Trains, count_sample, held_bits, last_step, list_sparse, valid_bits

GROUPS = 4  # of 16 neurons, in a word


class State(NamedTuple):
    """The state of a sample of a pool: membranes `u` and currents `a` (64 * W,), the latter decayed already.

    `held` (W,) are the bits of the neurons whose membrane is held at 0. Groups of neurons sleep until the first spike
    reaches them. `awake` (4 * W,) says which do not, `groups` lists them.
    """

    u: Floats
    a: Floats
    held: Words
    awake: Flags
    groups: Indices


@part
def receive(
    words_in: Words, b: int, t: int, first: Indices, post: Indices, state: State, inputs: Listed, count: int
) -> int:
    """Add the input spikes of step t to the currents; returns how many groups are awake, `count` of them before."""
    for k in range(list_sparse(words_in, b, t, inputs)):
        n = np.uint64(inputs.neurons[k])
        for r in range(first[n], first[n + np.uint64(1)]):
            neuron = np.uint64(post[np.uint64(r)])
            state.a[neuron] += np.float32(1)
            group = neuron // np.uint64(GROUP)
            if not state.awake[group]:
                state.awake[group] = True
                state.groups[count] = group
                count += 1
    return count


@part
def advance(b: int, t: int, lif: LifConstants, state: State, count: int, words: Words) -> None:
    """Advance the groups that are awake by one step; writes the bits of those that fire."""
    like, row = zeros16(), GROUPS * words.shape[2]
    decay_m, decay_s, rise = splat(lif.decay_m, like), splat(lif.decay_s, like), splat(lif.rise, like)
    for w in range(words.shape[2]):
        state.held[w] = held_bits(words, b, t, w, lif.t_ref)
    for k in range(count):
        group = np.int64(state.groups[np.uint64(k)])
        place = GROUP * group
        current = load(state.a, place, like)
        x = drop(load_mask(state.held, group, like), load(state.u, place, like) * decay_m + current * rise)
        fired = exceeding(x, splat(lif.threshold, like))
        store_mask(words, (b * words.shape[1] + t) * row + group, fired)
        store(state.u, place, drop(fired, x))
        store(state.a, place, current * decay_s)


@jit
def pool_forward(
    words_in: Words,
    first: Indices,
    post: Indices,
    lif: LifConstants,
    neurons: int,
    words: Words,
    counts: Floats,
    state: State,
    inputs: Listed,
    block: Words,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.images.pool_forward`, step by step.

    `first` (I + 1), `post`: the neurons that see an input. `words` (B, T, W) and `counts` (B, N) are written. Scratch:
    `state`, `inputs` for the spikes of a step, `block` (64,).
    """
    steps, u, a = words.shape[1], state.u, state.a
    while True:
        b = take(turn)
        if b == NONE:
            return
        for i in range(u.shape[0]):
            u[i] = a[i] = np.float32(0)
        for group in range(state.awake.shape[0]):
            state.awake[group] = False
        for t in range(steps):
            for w in range(words.shape[2]):
                words[b, t, w] = np.uint64(0)
        last, count = last_step(words_in, b), 0
        for t in range(1, steps):
            count = receive(words_in, b, t - 1, first, post, state, inputs, count)
            advance(b, t, lif, state, count, words)
            words[b, t, words.shape[2] - 1] &= valid_bits(neurons - 64 * (words.shape[2] - 1))
            if t > last and t % LOOK == 0 and not can_fire(u, a, lif.threshold):
                break
        count_sample(words, b, block, counts, neurons)


@jit
def pool_backward(
    words: Words,
    trains: Trains,
    credit: Floats,
    begin: Indices,
    pre: Indices,
    readout: Readout,
    error: Floats,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.images.pool_backward`.

    `begin` (N + 1), `pre`: the inputs that a neuron sees; `credit` (B, N); `readout` of 64 neurons; `error` (B, I) must
    be 0.
    """
    while True:
        b = take(turn)
        if b == NONE:
            return
        for w in range(words.shape[2]):
            active = np.uint64(0)
            for t in range(words.shape[1]):
                active |= words[b, t, w]
            if active == np.uint64(0):
                continue
            read(zeros64(), readout, words, b, w, 0, 64)
            while active != np.uint64(0):
                lane = lowest_bit(active)
                active &= active - np.uint64(1)
                neuron = 64 * w + lane
                factor = credit[b, neuron]
                if factor == np.float32(0):
                    continue
                for r in range(begin[neuron], begin[neuron + 1]):
                    j = pre[r]
                    e = np.float32(0)
                    for k in range(trains.first[b, j], trains.first[b, j + 1]):
                        e += readout.values[np.int64(trains.times[k]) * 64 + lane]
                    error[b, j] += factor * e
