"""The kernels for CPUs, compiled by Numba: driven by events, one task per sample, threads over the batch.

- A spike adds the weight row of its neuron (weights are read pre-neuron first); a silent neuron costs nothing.
- The S-PSP of an input neuron is the sum of the readout's rows at its spikes. It lives in cache for as long as it takes
  to add its share to the gradient and to the error below: nothing of size (N, I) is stored for a sample.
- Recurrent S-PSPs and the recurrent system live on the list of existing synapses; the system is solved by Gauss-Seidel
  sweeps to float32 rounding, and by the reference where they do not converge.

Threads are Python threads over compiled code that holds no interpreter lock, so that no second pool competes with
PyTorch's own. Which sample is added to which partial sum does not depend on their number: 1, 2 or N threads give the
same bits. Numba compiles at the first call on a machine and caches the result. Tensors are float32; STBP runs as in the
reference, for its few steps are dominated by matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnrun.kernels import compiled, reference
from snnrun.kernels.compiled import Floats, Ints
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

# Samples are added up in so many partial sums, whatever the number of threads.
PARTIAL_SUMS = 8


def compiled_before() -> bool:
    """Whether an earlier run on this machine has left its compiled kernels."""
    folder = compiled.simulate.stats.cache_path
    return folder is not None and any(Path(folder).glob("compiled.simulate*.nbi"))


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
    _each(batch, lambda b: compiled.simulate(inputs[b], rows, first, post, values, constants, spikes[b]))
    return torch.from_numpy(spikes)


def strsbp_readout(spikes: Tensor, lif: Lif, dtype: torch.dtype = torch.float32) -> Tensor:
    """See `reference.strsbp_readout`."""
    _check(dtype)
    trains, constants = _array(spikes), _constants(lif)
    readout = np.empty(trains.shape, np.float32)
    _each(len(trains), lambda b: compiled.strsbp_readout(trains[b], constants, readout[b]))
    return torch.from_numpy(readout)


def hm2bp_readout(spikes: Tensor, lif: Lif, dtype: torch.dtype = torch.float32) -> Tensor:
    """See `reference.hm2bp_readout`."""
    _check(dtype)
    trains = _array(spikes)
    kernel, window, decay = reference.hm2bp_kernel(trains.shape[1], lif)
    by_distance = kernel.to(torch.float32).numpy()
    readout = np.empty(trains.shape, np.float32)

    def one(b: int) -> None:
        compiled.hm2bp_readout(
            trains[b], by_distance, window, decay, np.empty(trains.shape[1:], np.float32), readout[b]
        )

    _each(len(trains), one)
    return torch.from_numpy(readout)


def spsp_activation(readout: Tensor, spikes_in: Tensor, weight: Tensor) -> Tensor:
    """See `reference.spsp_activation`."""
    traces, inputs, rows = _array(readout), _array(spikes_in), _array(weight.T)
    activation = np.zeros((len(inputs), rows.shape[1]), np.float32)
    _each(len(inputs), lambda b: compiled.activation(traces[b], inputs[b], rows, activation[b]))
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
            compiled.backward(traces[b], trains[b], gains[b], credits[b], rows, partial[k], error[b])

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
    _each(
        len(trains),
        lambda b: compiled.coupling(traces[b], trains[b], n[b], first, post, values, silent_ratio, theta[b]),
    )
    return Coupling(theta, first, post)


def coupling_solve(theta: Coupling, diagonal: Tensor, right: Tensor, self_coupling: bool = True) -> Tensor:
    """See `reference.coupling_solve`."""
    diagonals, rights = _array(diagonal), _array(right)
    solution = np.empty_like(rights)

    def one(b: int) -> None:
        values = theta.theta[b]
        if not compiled.solve(values, theta.first, theta.post, diagonals[b], rights[b], self_coupling, solution[b]):
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
    _each(len(values), lambda b: compiled.product(theta.theta[b], theta.first, theta.post, values[b], result[b]))
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
