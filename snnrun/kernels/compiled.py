"""The compiled loops of the cpu kernels: each does one sample, writes into arrays it is given, and holds no lock.

Weights come pre-neuron first, (I, N), so that a spike adds one row. Recurrent synapses are grouped by pre-neuron: those
of neuron p stand at first[p] ... first[p + 1], each with its post-neuron.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

# Gauss-Seidel: largest change of a sweep, as a share of the largest entry, and the sweeps it may take.
TOLERANCE = 1e-7
SWEEPS = 200

# Sums may be reordered, but NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "arcp", "nsz"}


def jit(function: Callable[..., Any]) -> Any:
    """Compile at the first call; keep the result on disk where there is a folder to write it to."""
    options: dict[str, Any] = {"nogil": True, "fastmath": FAST, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither beside this file nor in the user's cache folder
        return njit(**options)(function)


@jit
def active(row: Bytes, out: Ints) -> int:
    """Write the indices of the ones in `row` to `out`, which is 8 longer; return their number."""
    count = 0
    size = row.shape[0]
    if size % 8 == 0:
        words = row.view(np.uint64)
        for k in range(size // 8):
            if words[k] != 0:
                for i in range(8 * k, 8 * k + 8):
                    out[count] = i
                    count += row[i]
    else:
        for i in range(size):
            out[count] = i
            count += row[i]
    return count


@jit
def add_rows(rows: Floats, index: Ints, start: int, stop: int, total: Floats) -> None:
    """total += sum of rows[index[start:stop]], several rows at a time to spare passes over `total`."""
    n = total.shape[0]
    k = start
    while k + 8 <= stop:
        a, b, c, d = rows[index[k]], rows[index[k + 1]], rows[index[k + 2]], rows[index[k + 3]]
        e, f, g, h = rows[index[k + 4]], rows[index[k + 5]], rows[index[k + 6]], rows[index[k + 7]]
        for i in range(n):
            total[i] += ((a[i] + b[i]) + (c[i] + d[i])) + ((e[i] + f[i]) + (g[i] + h[i]))
        k += 8
    while k + 2 <= stop:
        a, b = rows[index[k]], rows[index[k + 1]]
        for i in range(n):
            total[i] += a[i] + b[i]
        k += 2
    if k < stop:
        a = rows[index[k]]
        for i in range(n):
            total[i] += a[i]


@jit
def simulate(
    spikes_in: Bytes, weight: Floats, first: Ints, post: Ints, recurrent: Floats, constants: Floats, spikes: Bytes
) -> None:
    """One sample of `lif_forward`; `weight` (I, N), recurrent synapses grouped by pre-neuron, `spikes` (T, N) zero."""
    decay_m, decay_s, drive, theta, t_ref = constants
    steps, neurons = spikes.shape
    u, a, hold = np.zeros(neurons, np.float32), np.zeros(neurons, np.float32), np.zeros(neurons, np.float32)
    index = np.empty(spikes_in.shape[1] + 8, np.int64)
    fired = np.empty(neurons + 8, np.int64)
    count = 0
    zero, one = np.float32(0), np.float32(1)
    for t in range(1, steps):
        for i in range(neurons):
            a[i] *= decay_s
        add_rows(weight, index, 0, active(spikes_in[t - 1], index), a)
        for k in range(count):
            for s in range(first[fired[k]], first[fired[k] + 1]):
                a[post[s]] += recurrent[s]
        row = spikes[t]
        for i in range(neurons):
            x = u[i] * decay_m + a[i] * drive
            x = zero if hold[i] > zero else x
            hold[i] -= one
            u[i] = x
            row[i] = x > theta
        count = active(row, fired)
        for k in range(count):
            u[fired[k]] = zero
            hold[fired[k]] = t_ref


@jit
def strsbp_readout(spikes: Bytes, constants: Floats, readout: Floats) -> None:
    """One sample of `strsbp_readout`; `readout` (T, N) is overwritten."""
    decay_m, decay_s, drive, _, t_ref = constants
    lag = int(t_ref)
    steps, neurons = spikes.shape
    q, p = np.zeros(neurons, np.float32), np.zeros(neurons, np.float32)
    held = np.zeros(neurons, np.uint8)
    zero, one, tiny = np.float32(0), np.float32(1), np.float32(1e-30)
    readout[steps - 1] = zero
    for t in range(steps - 1, 0, -1):
        held[:] = 0
        for k in range(1, min(lag, t) + 1):
            before = spikes[t - k]
            for i in range(neurons):
                held[i] |= before[i]
        row, out = spikes[t], readout[t - 1]
        for i in range(neurons):
            x = one if row[i] != 0 else q[i]
            x = zero if held[i] != 0 else x
            y = p[i] * decay_s + x * drive
            y = zero if y < tiny else y  # no denormal numbers
            out[i] = y
            p[i] = y
            q[i] = x * decay_m


@jit
def hm2bp_readout(spikes: Bytes, kernel: Floats, window: float, decay: float, change: Floats, readout: Floats) -> None:
    """One sample of `hm2bp_readout`; `kernel` by the distance to the next spike, `change` (T, N) is scratch."""
    steps, neurons = spikes.shape
    none = 2 * steps
    step_decay, zero, tiny = np.float32(decay), np.float32(0), np.float32(1e-30)
    change[:] = zero
    following = np.full(neurons, none, np.int64)
    index = np.empty(neurons + 8, np.int64)
    for t in range(steps - 1, -1, -1):
        for k in range(active(spikes[t], index)):
            i = index[k]
            last = following[i]
            if last < none:
                begin = max(0, int(np.floor(last - window)))
                if begin <= t:
                    height = kernel[last - t]
                    change[t, i] += height
                    change[begin, i] -= height * np.float32(decay ** (t - begin))
            following[i] = t
    following[:] = none
    tail = np.zeros(neurons, np.float32)
    readout[0] = zero
    for t in range(steps - 1, 0, -1):
        out, row, at = readout[t], spikes[t], change[t]
        for i in range(neurons):
            x = tail[i]
            out[i] = kernel[following[i] - t] + x
            x = (x + at[i]) * step_decay
            tail[i] = zero if abs(x) < tiny else x
            following[i] = t if row[i] != 0 else following[i]


@jit
def by_neuron(spikes: Bytes, first: Ints) -> Ints:
    """Spike times of each neuron, one after the other; neuron j's stand at first[j] ... first[j + 1]."""
    steps, neurons = spikes.shape
    index = np.empty(neurons + 8, np.int64)
    first[:] = 0
    for t in range(steps):
        for k in range(active(spikes[t], index)):
            first[index[k] + 1] += 1
    for j in range(neurons):
        first[j + 1] += first[j]
    times = np.empty(first[neurons], np.int64)
    place = first[:neurons].copy()
    for t in range(steps):
        for k in range(active(spikes[t], index)):
            j = index[k]
            times[place[j]] = t
            place[j] += 1
    return times


@jit
def backward(
    readout: Floats, spikes_in: Bytes, gain: Floats, credit: Floats, weight: Floats, gradient: Floats, error: Floats
) -> None:
    """One sample of `spsp_backward`: adds to `gradient` (I, N); `error` (I,) is written unless it is empty."""
    inputs, neurons = gradient.shape
    first = np.empty(inputs + 1, np.int64)
    times = by_neuron(spikes_in, first)
    e = np.empty(neurons, np.float32)
    for j in range(inputs):
        if first[j] == first[j + 1]:
            continue
        e[:] = 0
        add_rows(readout, times, first[j], first[j + 1], e)
        g = gradient[j]
        if error.shape[0] == 0:
            for i in range(neurons):
                g[i] += gain[i] * e[i]
        else:
            w = weight[j]
            total = np.float32(0)
            for i in range(neurons):
                x = e[i]
                g[i] += gain[i] * x
                total += credit[i] * w[i] * x
            error[j] = total


@jit
def activation(readout: Floats, spikes_in: Bytes, weight: Floats, activation: Floats) -> None:
    """One sample of `spsp_activation`; `weight` (I, N), `activation` (N,) zero."""
    neurons = weight.shape[1]
    index = np.empty(spikes_in.shape[1] + 8, np.int64)
    drive = np.empty(neurons, np.float32)
    for t in range(spikes_in.shape[0]):
        count = active(spikes_in[t], index)
        if count:
            drive[:] = 0
            add_rows(weight, index, 0, count, drive)
            row = readout[t]
            for i in range(neurons):
                activation[i] += row[i] * drive[i]


@jit
def coupling(
    readout: Floats,
    spikes: Bytes,
    counts: Floats,
    first: Ints,
    post: Ints,
    weight: Floats,
    silent: float,
    theta: Floats,
) -> None:
    """One sample of `coupling`: theta = weight * e / n (or `silent`) by synapse."""
    theta[:] = 0
    index = np.empty(spikes.shape[1] + 8, np.int64)
    for t in range(spikes.shape[0]):
        row = readout[t]
        for k in range(active(spikes[t], index)):
            for s in range(first[index[k]], first[index[k] + 1]):
                theta[s] += row[post[s]]
    for p in range(spikes.shape[1]):
        for s in range(first[p], first[p + 1]):
            both = counts[p] > 0 and counts[post[s]] > 0
            theta[s] = weight[s] * (theta[s] / counts[p] if both else np.float32(silent))


@jit
def solve(
    theta: Floats, first: Ints, post: Ints, diagonal: Floats, right: Floats, self_coupling: bool, x: Floats
) -> bool:
    """Gauss-Seidel for x_p = (right_p + sum_i theta_ip x_i) / diagonal_p; False if it does not converge."""
    neurons = right.shape[0]
    for p in range(neurons):
        x[p] = right[p] / diagonal[p]
    for _ in range(SWEEPS):
        change = largest = np.float32(0)
        for p in range(neurons):
            total, own = right[p], diagonal[p]
            for s in range(first[p], first[p + 1]):
                if post[s] != p:
                    total += theta[s] * x[post[s]]
                elif self_coupling:
                    own -= theta[s]
            new = total / own
            if not np.isfinite(new):
                return False
            change = max(change, abs(new - x[p]))
            largest = max(largest, abs(new))
            x[p] = new
        if change <= np.float32(TOLERANCE) * largest:
            return True
    return False


@jit
def product(theta: Floats, first: Ints, post: Ints, x: Floats, result: Floats) -> None:
    """result_p = sum_i theta_ip x_i."""
    for p in range(x.shape[0]):
        total = np.float32(0)
        for s in range(first[p], first[p + 1]):
            total += theta[s] * x[post[s]]
        result[p] = total
