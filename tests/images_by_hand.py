"""Spiking convolution and pooling in plain loops over plain floats, straight from the papers' definitions.

Shares nothing with the package but the parameters of neuron and window. Spikes are (T, channels, rows, columns), one
sample; an output neuron is (kernel, row, column).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from snnrun.kernels import Lif, Window

CONV, POOL = "conv", "pool"


def positions(window: Window) -> Iterator[tuple[int, int, int]]:
    """The output neurons in the order in which they are numbered."""
    return itertools.product(range(window.kernels), range(window.out_rows), range(window.out_columns))


def number(channel: int, row: int, column: int, rows: int, columns: int) -> int:
    """A neuron's number when its image is flattened channel by channel, row by row."""
    return channel * rows * columns + row * columns + column


def field(window: Window, layer: str, neuron: tuple[int, int, int]) -> Iterator[tuple[tuple[int, int, int], tuple]]:
    """The inputs that an output neuron sees, (channel, row, column), each with the index of its weight."""
    kernel, y, x = neuron
    for channel in range(window.channels) if layer == CONV else [kernel]:
        for i in range(window.height):
            for j in range(window.width):
                row, column = y * window.stride + i - window.padding, x * window.stride + j - window.padding
                if 0 <= row < window.rows and 0 <= column < window.columns:
                    yield (channel, row, column), (kernel, channel, i, j)


def weight_of(weight: np.ndarray | None, index: tuple) -> float:
    """A pool's weights are 1."""
    return 1.0 if weight is None else float(weight[index])


def forward(spikes: np.ndarray, weight: np.ndarray | None, window: Window, lif: Lif) -> np.ndarray:
    """Output spikes (T, kernels, rows, columns): leak, drive with a delay of one step, hold, fire."""
    layer = POOL if weight is None else CONV
    theta = lif.v_th - 1e-6 if layer == POOL else lif.v_th
    out = np.zeros((len(spikes), window.kernels, window.out_rows, window.out_columns), dtype=np.uint8)
    for neuron in positions(window):
        u = a = 0.0
        refractory = 0
        for t in range(1, len(spikes)):
            u *= 1 - 1 / lif.tau_m
            a *= 1 - 1 / lif.tau_s
            for pre, index in field(window, layer, neuron):
                a += weight_of(weight, index) * float(spikes[(t - 1, *pre)])
            u += a / lif.tau_s
            if refractory > 0:
                u, refractory = 0.0, refractory - 1
            if u > theta:
                out[(t, *neuron)], u, refractory = 1, 0.0, lif.t_ref
    return out


# ---- the effect of one input train on one output train --------------------------------------------------------------


def stepwise_effect(pre: np.ndarray, post: np.ndarray, lif: Lif) -> float:
    """ST-RSBP's S-PSP: a unit weight's membrane before each output spike, with the resets and holds imposed."""
    p = q = total = 0.0
    held = lif.t_ref if post[0] else 0
    for t in range(1, len(pre)):
        p = p * (1 - 1 / lif.tau_s) + pre[t - 1]
        q = q * (1 - 1 / lif.tau_m) + p / lif.tau_s
        if held > 0:
            q, held = 0.0, held - 1
        if post[t]:
            total, q, held = total + q, 0.0, lif.t_ref
    return total


def closed_effect(pre: np.ndarray, post: np.ndarray, lif: Lif) -> float:
    """HM2-BP's effect: a kernel for each pair of an output spike and an input spike before it."""
    total = 0.0
    times = np.flatnonzero(post).tolist()
    for before, t_f in zip([None, *times], times, strict=False):
        reference = 1 if before is None else before + lif.t_ref
        first = max(1, math.floor(t_f - 4 * lif.tau_m))
        for t_j in range(first, t_f - lif.t_ref + 1):
            if not pre[t_j]:
                continue
            s, t = t_f - reference, t_f - t_j - lif.t_ref
            near, late = min(s, t), max(t - s, 0)
            rise = (math.exp(-near / lif.tau_m) - math.exp(-near / lif.tau_s)) / (1 - lif.tau_s / lif.tau_m)
            total += math.exp(-late / lif.tau_s) * rise
    return total


# ---- backward -------------------------------------------------------------------------------------------------------


def train_of(spikes: np.ndarray, neuron: tuple[int, int, int]) -> np.ndarray:
    return spikes[(slice(None), *neuron)]


def hm2bp_convolution(
    spikes_in: np.ndarray,
    spikes: np.ndarray,
    weight: np.ndarray,
    error: np.ndarray,
    window: Window,
    lif: Lif,
    *,
    silent_ratio: float,
    with_sigma: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient of the weights and error below of one sample; `error` (kernels, rows, columns) is dE/dn."""
    gradient, below = np.zeros(weight.shape), np.zeros(spikes_in.shape[1:])
    for neuron in positions(window):
        post = train_of(spikes, neuron)
        n, delta = int(post.sum()), error[neuron] / lif.v_th
        seen, sigma = [], 0.0
        for pre, index in field(window, CONV, neuron):
            train = train_of(spikes_in, pre)
            m = int(train.sum())
            effect = 0.0 if m == 0 else 0.1 if n == 0 else closed_effect(train, post, lif)
            sigma += weight[index] * (effect / n if n else 0.5)
            seen.append((pre, index, effect, effect / m if n and m else silent_ratio))
        for pre, index, effect, ratio in seen:
            gradient[index] += delta * effect * (1 + sigma / lif.v_th * with_sigma)
            below[pre] += delta * weight[index] * ratio
    return gradient, below


def hm2bp_pool(
    spikes_in: np.ndarray, spikes: np.ndarray, error: np.ndarray, window: Window, lif: Lif, silent_ratio: float
) -> np.ndarray:
    """Error below of one sample: a share of the error, by e/n, without weight and threshold."""
    below = np.zeros(spikes_in.shape[1:])
    for neuron in positions(window):
        post = train_of(spikes, neuron)
        for pre, _ in field(window, POOL, neuron):
            train = train_of(spikes_in, pre)
            both = post.any() and train.any()
            ratio = closed_effect(train, post, lif) / train.sum() if both else silent_ratio
            below[pre] += error[neuron] / (window.height * window.width) * ratio
    return below


def strsbp_layer(
    spikes_in: np.ndarray,
    spikes: np.ndarray,
    weight: np.ndarray | None,
    error: np.ndarray,
    window: Window,
    lif: Lif,
    *,
    silent_ratio: float,
    table: np.ndarray | None = None,
    counts: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient of the weights (zeros of a pool) and error below of one sample, a layer whose D_i is the paper's.

    D_i = 1 - (1 / v_th) sum w dD/dn by the fitted table, or 1 / (1 + (1 / v_th) sum w e / n_i) with `counts`, else 1.
    """
    layer = POOL if weight is None else CONV
    gradient = np.zeros(1 if weight is None else weight.shape)
    below = np.zeros(spikes_in.shape[1:])
    for neuron in positions(window):
        post = train_of(spikes, neuron)
        n, seen, total, slopes = int(post.sum()), [], 0.0, 0.0
        for pre, index in field(window, layer, neuron):
            train, w = train_of(spikes_in, pre), weight_of(weight, index)
            m, effect = int(train.sum()), stepwise_effect(train, post, lif)
            total += w * effect
            if table is not None and n:
                c = table[min(max(m, 1), len(table)) - 1]
                at = min(n, len(table))
                slopes += w * (4 * c[0] * at**3 + 3 * c[1] * at**2 + 2 * c[2] * at + c[3])
            seen.append((pre, index, w, effect, effect / m if n and m else silent_ratio))
        d = 1 - slopes / lif.v_th
        if counts:
            d = 1 / (1 + total / lif.v_th / max(n, 1))
        delta = error[neuron] / lif.v_th / d
        for pre, index, w, effect, ratio in seen:
            below[pre] += delta * w * ratio
            if weight is not None:
                gradient[index] += delta * effect
    return gradient, below
