"""The kernels for CPUs, compiled by Numba: driven by events, one task per sample, threads over the batch.

- A spike adds the weight row of its neuron (weights are read pre-neuron first); a silent neuron costs nothing.
- The S-PSP of an input neuron is the sum of the readout's rows at its spikes. It lives in cache for as long as it takes
  to add its share to the gradient and to the error below: nothing of size (N, I) is stored for a sample.
- Recurrent S-PSPs and the recurrent system live on the list of existing synapses; the system is solved by Gauss-Seidel
  sweeps to float32 rounding, and by the reference where they do not converge.

Threads are Python threads over compiled code that holds no interpreter lock, so that no second pool competes with
PyTorch's own. Which sample is added to which partial sum does not depend on their number: 1, 2 or N threads give the
same bits. Numba compiles at the first call on a machine and caches the result. Tensors are float32 on the CPU; STBP runs
as in the reference, for its few steps are dominated by matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from snnrun.kernels import reference
from snnrun.kernels.neuron import THRESHOLD_SLACK, Lif
from snnrun.kernels.reference import spsp, stbp_backward, stbp_forward

__all__ = [
    "compiled_before",
    "coupling",
    "coupling_product",
    "coupling_solve",
    "hm2bp_readout",
    "lif_forward",
    "spsp",
    "spsp_activation",
    "spsp_backward",
    "stbp_backward",
    "stbp_forward",
    "strsbp_readout",
]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

# Samples are added up in so many partial sums, whatever the number of threads.
PARTIAL_SUMS = 8
# Gauss-Seidel: largest change of a sweep, as a share of the largest entry, and the sweeps it may take.
TOLERANCE = 1e-7
SWEEPS = 200

# Sums may be reordered, but NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "arcp", "nsz"}


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call; keep the result on disk where there is a folder to write it to."""
    options: dict[str, Any] = {"nogil": True, "fastmath": FAST, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither beside this file nor in the user's cache folder
        return njit(**options)(function)


def compiled_before() -> bool:
    """Whether an earlier run on this machine has left its compiled kernels."""
    folder = _simulate.stats.cache_path
    return folder is not None and any(Path(folder).glob("cpu._simulate*.nbi"))


# ---- compiled -------------------------------------------------------------------------------------------------------


@compiled
def _active(row: Bytes, out: Ints) -> int:
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


@compiled
def _add_rows(rows: Floats, index: Ints, start: int, stop: int, total: Floats) -> None:
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


@compiled
def _simulate(
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
        _add_rows(weight, index, 0, _active(spikes_in[t - 1], index), a)
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
        count = _active(row, fired)
        for k in range(count):
            u[fired[k]] = zero
            hold[fired[k]] = t_ref


@compiled
def _strsbp_readout(spikes: Bytes, constants: Floats, readout: Floats) -> None:
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


@compiled
def _hm2bp_readout(spikes: Bytes, kernel: Floats, window: float, decay: float, change: Floats, readout: Floats) -> None:
    """One sample of `hm2bp_readout`; `kernel` by the distance to the next spike, `change` (T, N) is scratch."""
    steps, neurons = spikes.shape
    none = 2 * steps
    step_decay, zero, tiny = np.float32(decay), np.float32(0), np.float32(1e-30)
    change[:] = zero
    following = np.full(neurons, none, np.int64)
    index = np.empty(neurons + 8, np.int64)
    for t in range(steps - 1, -1, -1):
        for k in range(_active(spikes[t], index)):
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


@compiled
def _by_neuron(spikes: Bytes, first: Ints) -> Ints:
    """Spike times of each neuron, one after the other; neuron j's stand at first[j] ... first[j + 1]."""
    steps, neurons = spikes.shape
    index = np.empty(neurons + 8, np.int64)
    first[:] = 0
    for t in range(steps):
        for k in range(_active(spikes[t], index)):
            first[index[k] + 1] += 1
    for j in range(neurons):
        first[j + 1] += first[j]
    times = np.empty(first[neurons], np.int64)
    place = first[:neurons].copy()
    for t in range(steps):
        for k in range(_active(spikes[t], index)):
            j = index[k]
            times[place[j]] = t
            place[j] += 1
    return times


@compiled
def _backward(
    readout: Floats, spikes_in: Bytes, gain: Floats, credit: Floats, weight: Floats, gradient: Floats, error: Floats
) -> None:
    """One sample of `spsp_backward`: adds to `gradient` (I, N); `error` (I,) is written unless it is empty."""
    inputs, neurons = gradient.shape
    first = np.empty(inputs + 1, np.int64)
    times = _by_neuron(spikes_in, first)
    e = np.empty(neurons, np.float32)
    for j in range(inputs):
        if first[j] == first[j + 1]:
            continue
        e[:] = 0
        _add_rows(readout, times, first[j], first[j + 1], e)
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


@compiled
def _activation(readout: Floats, spikes_in: Bytes, weight: Floats, activation: Floats) -> None:
    """One sample of `spsp_activation`; `weight` (I, N), `activation` (N,) zero."""
    neurons = weight.shape[1]
    index = np.empty(spikes_in.shape[1] + 8, np.int64)
    drive = np.empty(neurons, np.float32)
    for t in range(spikes_in.shape[0]):
        count = _active(spikes_in[t], index)
        if count:
            drive[:] = 0
            _add_rows(weight, index, 0, count, drive)
            row = readout[t]
            for i in range(neurons):
                activation[i] += row[i] * drive[i]


@compiled
def _coupling(
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
        for k in range(_active(spikes[t], index)):
            for s in range(first[index[k]], first[index[k] + 1]):
                theta[s] += row[post[s]]
    for p in range(spikes.shape[1]):
        for s in range(first[p], first[p + 1]):
            both = counts[p] > 0 and counts[post[s]] > 0
            theta[s] = weight[s] * (theta[s] / counts[p] if both else np.float32(silent))


@compiled
def _solve(
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


@compiled
def _product(theta: Floats, first: Ints, post: Ints, x: Floats, result: Floats) -> None:
    """result_p = sum_i theta_ip x_i."""
    for p in range(x.shape[0]):
        total = np.float32(0)
        for s in range(first[p], first[p + 1]):
            total += theta[s] * x[post[s]]
        result[p] = total


# ---- the functions of a backend -------------------------------------------------------------------------------------


class Coupling(NamedTuple):
    """Theta of a recurrent layer on its synapses: `theta` (B, S) grouped by pre-neuron p, to neuron `post`."""

    theta: Floats
    first: Ints
    post: Ints


def lif_forward(spikes_in: Tensor, weight: Tensor, recurrent_weight: Tensor | None, lif: Lif) -> Tensor:
    """See `reference.lif_forward`."""
    batch, steps, _ = spikes_in.shape
    inputs, rows = _array(spikes_in), _array(weight.T)
    first, post, values = _synapses(recurrent_weight, weight.shape[0])
    spikes = np.zeros((batch, steps, weight.shape[0]), np.uint8)
    constants = _constants(lif)
    _each(batch, lambda b: _simulate(inputs[b], rows, first, post, values, constants, spikes[b]))
    return torch.from_numpy(spikes)


def strsbp_readout(spikes: Tensor, lif: Lif, dtype: torch.dtype = torch.float32) -> Tensor:
    """See `reference.strsbp_readout`."""
    _check(dtype)
    trains, constants = _array(spikes), _constants(lif)
    readout = np.empty(trains.shape, np.float32)
    _each(len(trains), lambda b: _strsbp_readout(trains[b], constants, readout[b]))
    return torch.from_numpy(readout)


def hm2bp_readout(spikes: Tensor, lif: Lif, dtype: torch.dtype = torch.float32) -> Tensor:
    """See `reference.hm2bp_readout`."""
    _check(dtype)
    trains = _array(spikes)
    kernel, window, decay = reference.hm2bp_kernel(trains.shape[1], lif)
    by_distance = kernel.to(torch.float32).numpy()
    readout = np.empty(trains.shape, np.float32)

    def one(b: int) -> None:
        _hm2bp_readout(trains[b], by_distance, window, decay, np.empty(trains.shape[1:], np.float32), readout[b])

    _each(len(trains), one)
    return torch.from_numpy(readout)


def spsp_activation(readout: Tensor, spikes_in: Tensor, weight: Tensor) -> Tensor:
    """See `reference.spsp_activation`."""
    traces, inputs, rows = _array(readout), _array(spikes_in), _array(weight.T)
    activation = np.zeros((len(inputs), rows.shape[1]), np.float32)
    _each(len(inputs), lambda b: _activation(traces[b], inputs[b], rows, activation[b]))
    return torch.from_numpy(activation)


def spsp_backward(
    readout: Tensor, spikes_in: Tensor, gain: Tensor, credit: Tensor | None, weight: Tensor
) -> tuple[Tensor, Tensor | None]:
    """See `reference.spsp_backward`."""
    batch, _, inputs = spikes_in.shape
    traces, trains, gains = _array(readout), _array(spikes_in), _array(gain)
    credits = gains if credit is None else _array(credit)
    rows = _array(weight.T) if credit is not None else np.empty((0, 0), np.float32)
    sums = min(batch, PARTIAL_SUMS)
    partial = np.zeros((sums, inputs, gains.shape[1]), np.float32)
    error = np.zeros((batch, 0 if credit is None else inputs), np.float32)

    def one(k: int) -> None:
        for b in range(k, batch, sums):
            _backward(traces[b], trains[b], gains[b], credits[b], rows, partial[k], error[b])

    _each(sums, one)
    gradient = torch.from_numpy(partial).sum(dim=0).T
    return gradient, None if credit is None else torch.from_numpy(error)


def coupling(
    readout: Tensor, spikes: Tensor, counts: Tensor, weight: Tensor, mask: Tensor, v_th: float, silent_ratio: float
) -> Coupling:
    """See `reference.coupling`."""
    first, post, values = _synapses(weight, len(weight), mask)
    values = values / np.float32(v_th)
    traces, trains, n = _array(readout), _array(spikes), _array(counts)
    theta = np.empty((len(trains), len(post)), np.float32)
    _each(len(trains), lambda b: _coupling(traces[b], trains[b], n[b], first, post, values, silent_ratio, theta[b]))
    return Coupling(theta, first, post)


def coupling_solve(theta: Coupling, diagonal: Tensor, right: Tensor, self_coupling: bool = True) -> Tensor:
    """See `reference.coupling_solve`."""
    diagonals, rights = _array(diagonal), _array(right)
    solution = np.empty_like(rights)

    def one(b: int) -> None:
        values = theta.theta[b]
        if not _solve(values, theta.first, theta.post, diagonals[b], rights[b], self_coupling, solution[b]):
            dense = torch.zeros(1, rights.shape[1], rights.shape[1], dtype=torch.float64)
            pre = np.repeat(np.arange(rights.shape[1]), np.diff(theta.first))
            dense[0, theta.post, pre] = torch.from_numpy(values).double()
            exact = reference.coupling_solve(dense, diagonal[[b]].double(), right[[b]].double(), self_coupling)
            solution[b] = exact[0].float().numpy()

    _each(len(rights), one)
    return torch.from_numpy(solution)


def coupling_product(theta: Coupling, x: Tensor) -> Tensor:
    """See `reference.coupling_product`."""
    values = _array(x)
    result = np.empty_like(values)
    _each(len(values), lambda b: _product(theta.theta[b], theta.first, theta.post, values[b], result[b]))
    return torch.from_numpy(result)


# ---- between tensors, arrays and threads ----------------------------------------------------------------------------


def _array(tensor: Tensor) -> NDArray[Any]:
    if tensor.dtype not in (torch.float32, torch.uint8) or tensor.device.type != "cpu":
        raise ValueError(f"the cpu kernels take float32 and uint8 tensors on the CPU, not {tensor.dtype}")
    return tensor.detach().contiguous().numpy()


def _check(dtype: torch.dtype) -> None:
    if dtype != torch.float32:
        raise ValueError(f"the cpu kernels compute in float32, not {dtype}")


def _constants(lif: Lif) -> Floats:
    values = (lif.decay_m, lif.decay_s, 1.0 / lif.tau_s, lif.v_th - THRESHOLD_SLACK, lif.t_ref)
    return np.array(values, np.float32)


def _synapses(weight: Tensor | None, neurons: int, mask: Tensor | None = None) -> tuple[Ints, Ints, Floats]:
    """Recurrent synapses grouped by pre-neuron: where each group begins (N + 1), post-neurons (S,), weights (S,)."""
    if weight is None:
        return np.zeros(neurons + 1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    by_pre = _array(weight.T)
    pre, post = np.nonzero(by_pre if mask is None else mask.T.numpy())
    first = np.searchsorted(pre, np.arange(neurons + 1)).astype(np.int64)
    return first, post.astype(np.int64), by_pre[pre, post]


def _each(count: int, task: Callable[[int], None]) -> None:
    """Run `task` for 0 ... count - 1, spread over PyTorch's number of threads."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        for k in range(count):
            task(k)
    else:
        for _ in _pool(threads).map(_run, [task] * threads, [range(t, count, threads) for t in range(threads)]):
            pass


def _run(task: Callable[[int], None], items: Sequence[int]) -> None:
    for item in items:
        task(item)


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kernels")
