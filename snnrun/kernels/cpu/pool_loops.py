"""The loops of spiking pools: `pool_forward`, `pool_backward`."""

from __future__ import annotations

import numpy as np

from snnrun.compiled.jit import Flags, Floats, Indices, Words, jit
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.compiled.vector import choose, load, lowest_bit, splat, store, zeros64
from snnrun.kernels.cpu.constants import LifConstants
from snnrun.kernels.cpu.forward_loops import LOOK, can_fire, lif_step
from snnrun.kernels.cpu.readout_loops import Readout, read
from snnrun.kernels.cpu.spike_loops import Listed, Trains, held_bits, last_step, list_sparse, valid_bits


@jit
def pool_forward(
    words_in: Words,
    first: Indices,
    post: Indices,
    lif: LifConstants,
    neurons: int,
    words: Words,
    counts: Floats,
    u: Floats,
    a: Floats,
    drive: Floats,
    awake: Flags,
    inputs: Listed,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.images.pool_forward`, step by step.

    `first` (I + 1), `post`: the neurons that see an input. `words` (B, T, W) and `counts` (B, 64 * W) are written.
    Scratch: `u`, `a`, `drive` (64 * W,), `awake` (W,), `inputs` for the spikes of a step. A word of neurons sleeps
    until the first spike reaches it.
    """
    steps = words.shape[1]
    while True:
        b = take(turn)
        if b == NONE:
            return
        for i in range(u.shape[0]):
            u[i] = a[i] = drive[i] = counts[b, i] = np.float32(0)
        for w in range(awake.shape[0]):
            awake[w] = False
        for t in range(steps):
            for w in range(words.shape[2]):
                words[b, t, w] = np.uint64(0)
        last = last_step(words_in, b)
        for t in range(1, steps):
            for k in range(list_sparse(words_in, b, t - 1, inputs)):
                n = inputs.neurons[k]
                for r in range(first[n], first[n + 1]):
                    drive[post[r]] += np.float32(1)
                    awake[post[r] >> 6] = True
            fired = np.uint64(0)
            for w in range(awake.shape[0]):
                if not awake[w]:
                    continue
                input_ = load(drive, 64 * w, zeros64())
                store(drive, 64 * w, zeros64())
                held = held_bits(words, b, t, w, lif.t_ref)
                valid = valid_bits(neurons - 64 * w)
                spikes = lif_step(zeros64(), input_, 64 * w, held, valid, lif, u, a)
                if spikes:
                    place = b * u.shape[0] + 64 * w
                    before = load(counts, place, zeros64())
                    store(counts, place, choose(spikes, before + splat(np.float32(1), zeros64()), before))
                words[b, t, w] = spikes
                fired |= spikes
            if t > last and t % LOOK == 0 and fired == np.uint64(0) and not can_fire(u, a, lif.threshold):
                break


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
