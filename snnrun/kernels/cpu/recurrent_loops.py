"""The loops over the recurrent synapses of a layer.

They are grouped by pre-neuron: those of p are at first[p] ... first[p + 1], each with its post-neuron.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from snnrun.compiled.jit import Flags, Floats, Indices, Times, Words, jit, part
from snnrun.compiled.turns import NONE, Turn, take
from snnrun.kernels.cpu.active_loops import Active, close_up, idle, list_train, width_of
from snnrun.kernels.cpu.readout_loops import Readout, read_block

# Gauss-Seidel stops at this largest change of a sweep, as a share of the largest entry, or after so many sweeps.
TOLERANCE = 1e-7
SWEEPS = 200
# The spikes of a neuron are read for so many of its synapses at once. A processor guesses the end of each loop wrong.
TOGETHER = 4
# A thread adds up the gradients of so many synapses at a time.
SYNAPSES = 512


class Kept(NamedTuple):
    """Room for the synapses that count in a sample, grouped as all are.

    Those of the n-th kept neuron are at first[n] ... first[n + 1]; `post` has their post-neurons. `neuron` and `first`
    have room for one more than the layer has neurons, the others for four more than it has synapses.
    """

    neuron: Indices
    first: Indices
    synapse: Indices
    post: Indices
    theta: Floats


def room_to_keep(neurons: int, synapses: int) -> Kept:
    """Room for the synapses that count in a sample."""
    return Kept(
        neuron=np.empty(neurons + 1, np.int32),
        first=np.empty(neurons + 1, np.int32),
        synapse=np.empty(synapses + TOGETHER, np.int32),
        post=np.empty(synapses + TOGETHER, np.int32),
        theta=np.empty(synapses + TOGETHER, np.float32),
    )


@part
def keep_active(count: int, first: Indices, post: Indices, active: Active, kept: Kept) -> None:
    """Keep the synapses between the `count` neurons of a sample that fire, by their places in the closed-up words.

    `neuron` has this place of each neuron, or -1. Behind the last synapse come those to neuron 0.
    """
    for i in range(first.shape[0] - 1):
        kept.neuron[i] = -1
    for n in range(count):
        kept.neuron[active.neuron[n]] = n
    total = 0
    for n in range(count):
        kept.first[n] = total
        for s in range(first[active.neuron[n]], first[active.neuron[n] + 1]):  # written even if it is not kept
            kept.synapse[total], kept.post[total] = s, kept.neuron[post[s]]
            total += kept.neuron[post[s]] >= 0
    kept.first[count] = total
    for k in range(TOGETHER - 1):
        kept.post[total + k] = 0


@part
def sum_together(values: Floats, padded: int, own: Times, spikes: int, kept: Kept, s: int) -> None:
    """Write the sums of the readouts of four synapses from s on, at a neuron's own[:spikes], to `theta`."""
    i, j, k, m = kept.post[s], kept.post[s + 1], kept.post[s + 2], kept.post[s + 3]
    x = y = z = v = np.float32(0)
    for n in range(spikes):
        row = np.int64(own[n]) * padded
        x += values[row + i]
        y += values[row + j]
        z += values[row + k]
        v += values[row + m]
    kept.theta[s], kept.theta[s + 1], kept.theta[s + 2], kept.theta[s + 3] = x, y, z, v


@jit
def recurrent_spsp(
    words: Words,
    first: Indices,
    post: Indices,
    readout: Readout,
    active: Active,
    kept: Kept,
    own: Times,
    e: Floats,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.recurrent_spsp`; `e` (B, S) is written.

    Scratch: `readout.values` with room for T steps of all blocks, `active`, `kept`, and `own` with room for a train.
    """
    while True:
        b = take(turn)
        if b == NONE:
            return
        for s in range(e.shape[1]):
            e[b, s] = np.float32(0)
        count = close_up(words, b, active)
        keep_active(count, first, post, active, kept)
        padded = 64 * ((count + 63) // 64)
        for offset in range(0, padded, 64):
            read_block(width_of(count - offset), readout, active.words, 0, offset // 64, offset, padded)
        for n in range(count):
            if kept.first[n] == kept.first[n + 1]:
                continue
            spikes = list_train(active, active.neuron[n], own)
            for s in range(kept.first[n], kept.first[n + 1], TOGETHER):  # the next neuron overwrites what is too much
                sum_together(readout.values, padded, own, spikes, kept, s)
        for s in range(kept.first[count]):
            e[b, kept.synapse[s]] = kept.theta[s]


@jit
def coupling(
    e: Floats,
    counts: Floats,
    first: Indices,
    post: Indices,
    weight: Floats,
    silent: float,
    theta: Floats,
    turn: Turn,
) -> None:
    """The samples of a turn of `reference.coupling`; `weight` (S,) is already divided by the threshold."""
    while True:
        b = take(turn)
        if b == NONE:
            return
        for p in range(counts.shape[1]):
            n = counts[b, p]
            inverse = np.float32(1) / max(n, np.float32(1))
            for s in range(first[p], first[p + 1]):
                both = n > 0 and counts[b, post[s]] > 0
                theta[b, s] = weight[s] * (e[b, s] * inverse if both else np.float32(silent))


class Systems(NamedTuple):
    """The recurrent systems of a batch, their solutions `x` (B, N), and room for one: its diagonal `own` (N,), `kept`.

    `theta` (B, S) is that of the synapses, grouped by pre-neuron in `first` and `post`; `diagonal`, `right` (B, N).
    """

    theta: Floats
    first: Indices
    post: Indices
    diagonal: Floats
    right: Floats
    self_coupling: bool
    x: Floats
    own: Floats
    kept: Kept


@part
def keep_coupled(b: int, systems: Systems) -> int:
    """Keep the entries of a sample's system off its diagonal; `own` gets the diagonal. Returns how many rows have some.

    `kept.neuron` has these rows. Rows without such entries are solved at once: `x` becomes right / own.
    """
    theta, first, post, kept, own = systems.theta, systems.first, systems.post, systems.kept, systems.own
    total = rows = 0
    for p in range(systems.right.shape[1]):
        own[p] = systems.diagonal[b, p]
        kept.first[rows], kept.neuron[rows] = total, p
        for s in range(first[p], first[p + 1]):
            if post[s] != p:
                kept.post[total], kept.theta[total] = post[s], theta[b, s]
                total += theta[b, s] != np.float32(0)
            elif systems.self_coupling:
                own[p] -= theta[b, s]
        systems.x[b, p] = systems.right[b, p] / own[p]
        rows += total > kept.first[rows]
    kept.first[rows] = total
    return rows


@part
def sweep_to_rest(b: int, systems: Systems) -> bool:
    """Gauss-Seidel for x_p = (right_p + sum_i theta_ip x_i) / diagonal_p of a sample; False if it does not converge."""
    rows = keep_coupled(b, systems)
    x, right, kept = systems.x, systems.right, systems.kept
    largest = np.float32(0)
    for p in range(right.shape[1]):
        if not np.isfinite(x[b, p]):
            return False
        largest = max(largest, abs(x[b, p]))
    for _ in range(SWEEPS):
        change = np.float32(0)
        for row in range(rows):
            p = kept.neuron[row]
            sum_ = right[b, p]
            for s in range(kept.first[row], kept.first[row + 1]):
                sum_ += kept.theta[s] * x[b, kept.post[s]]
            new = sum_ / systems.own[p]
            if not np.isfinite(new):
                return False
            change = max(change, abs(new - x[b, p]))
            largest = max(largest, abs(new))
            x[b, p] = new
        if change <= np.float32(TOLERANCE) * largest:
            return True
    return False


@jit
def coupling_solve(systems: Systems, solved: Flags, turn: Turn) -> None:
    """The samples of a turn of `reference.coupling_solve`; `solved` (B,) says which converged."""
    while True:
        b = take(turn)
        if b == NONE:
            return
        solved[b] = True
        for p in range(systems.right.shape[1]):
            systems.x[b, p] = np.float32(0)
        if not idle(systems.right, b):
            solved[b] = sweep_to_rest(b, systems)


@jit
def recurrent_gradient(e: Floats, gain: Floats, post: Indices, gradient: Floats, turn: Turn) -> None:
    """The strips of a turn, of SYNAPSES each, of `reference.recurrent_gradient`; `gradient` (S,) is written."""
    while True:
        k = take(turn)
        if k == NONE:
            return
        for s in range(k * SYNAPSES, min((k + 1) * SYNAPSES, post.shape[0])):
            sum_, i = np.float32(0), post[s]
            for b in range(e.shape[0]):
                sum_ += gain[b, i] * e[b, s]
            gradient[s] = sum_
