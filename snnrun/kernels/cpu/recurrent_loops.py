"""The loops over the recurrent synapses of a layer.

They are grouped by pre-neuron: those of p stand at first[p] ... first[p + 1], each with its post-neuron.
"""

from __future__ import annotations

import numpy as np

from snnrun.jit import Flags, Floats, Indices, Times, Words, jit, part
from snnrun.kernels.cpu.readout_loops import read_block
from snnrun.kernels.cpu.spike_loops import list_spikes

# Gauss-Seidel: largest change of a sweep, as a share of the largest entry, and the sweeps it may take.
TOLERANCE = 1e-7
SWEEPS = 200


@jit
def recurrent_spsp(
    rule: int,
    words: Words,
    first: Indices,
    post: Indices,
    padded: int,
    constants: Floats,
    kernel: Floats,
    previous: Indices,
    readout: Floats,
    own: Times,
    e: Floats,
    start: int,
    stop: int,
) -> None:
    """Samples start ... stop of `reference.recurrent_spsp`; `readout` scratch (T * P,), `e` (B, S) zero."""
    for b in range(start, stop):
        for offset in range(0, padded, 64):
            width = min(64, padded - offset)
            read_block(rule, width, words, b, offset // 64, constants, kernel, previous, readout, offset, padded)
        for t in range(words.shape[1]):
            for k in range(list_spikes(words, b, t, own)):
                for s in range(first[own[k]], first[own[k] + 1]):
                    e[b, s] += readout[t * padded + post[s]]


@jit
def coupling(
    e: Floats,
    counts: Floats,
    first: Indices,
    post: Indices,
    weight: Floats,
    silent: float,
    theta: Floats,
    start: int,
    stop: int,
) -> None:
    """Samples start ... stop of `reference.coupling`; `weight` (S,) is divided by the threshold."""
    for b in range(start, stop):
        for p in range(counts.shape[1]):
            n = counts[b, p]
            inverse = np.float32(1) / max(n, np.float32(1))
            for s in range(first[p], first[p + 1]):
                both = n > 0 and counts[b, post[s]] > 0
                theta[b, s] = weight[s] * (e[b, s] * inverse if both else np.float32(silent))


@part
def sweep_to_rest(
    b: int,
    theta: Floats,
    first: Indices,
    post: Indices,
    diagonal: Floats,
    right: Floats,
    self_coupling: bool,
    x: Floats,
) -> bool:
    """Gauss-Seidel for x_p = (right_p + sum_i theta_ip x_i) / diagonal_p of a sample; False if it does not converge."""
    neurons = right.shape[1]
    for p in range(neurons):
        x[b, p] = right[b, p] / diagonal[b, p]
    for _ in range(SWEEPS):
        change = largest = np.float32(0)
        for p in range(neurons):
            sum_, own = right[b, p], diagonal[b, p]
            for s in range(first[p], first[p + 1]):
                if post[s] != p:
                    sum_ += theta[b, s] * x[b, post[s]]
                elif self_coupling:
                    own -= theta[b, s]
            new = sum_ / own
            if not np.isfinite(new):
                return False
            change = max(change, abs(new - x[b, p]))
            largest = max(largest, abs(new))
            x[b, p] = new
        if change <= np.float32(TOLERANCE) * largest:
            return True
    return False


@jit
def coupling_solve(
    theta: Floats,
    first: Indices,
    post: Indices,
    diagonal: Floats,
    right: Floats,
    self_coupling: bool,
    x: Floats,
    solved: Flags,
    start: int,
    stop: int,
) -> None:
    """Samples start ... stop of `reference.coupling_solve`; `solved` (B,) says which of them converged."""
    for b in range(start, stop):
        solved[b] = sweep_to_rest(b, theta, first, post, diagonal, right, self_coupling, x)


@jit
def recurrent_gradient(e: Floats, gain: Floats, post: Indices, gradient: Floats, start: int, stop: int) -> None:
    """Synapses start ... stop of `reference.recurrent_gradient`; `gradient` (S,) zero."""
    for b in range(e.shape[0]):
        for s in range(start, stop):
            gradient[s] += gain[b, post[s]] * e[b, s]
