"""The learning rules once more, in plain Python on floats of 64 bits: neuron by neuron, spike by spike, pair by pair.

Written from the papers' equations for one purpose, the numbers in `golden/`. It shares nothing with the package, so a
slip in one is not a slip in the other, and it is slow. One sample at a time; spikes are arrays (T, N) of 0 and 1, times
in steps of 1 ms, potentials in mV. What a neuron sees is a list of synapses (input, index of the weight), one list a
neuron, so that a dense layer, a convolution and a pool are the same to all that follows.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

Seen = list[list[tuple[int, tuple[int, ...]]]]


class Neuron(NamedTuple):
    """Threshold, time constants of membrane and synapse, refractory period."""

    v_th: float
    tau_m: float
    tau_s: float
    t_ref: int


# ---- what each neuron sees ------------------------------------------------------------------------------------------


def dense(neurons: int, inputs: int) -> Seen:
    """Every input, by weights (neurons, inputs)."""
    return [[(j, (i, j)) for j in range(inputs)] for i in range(neurons)]


def convolution(channels: int, rows: int, columns: int, kernels: int, side: int) -> Seen:
    """A square window of every channel, by weights (kernels, channels, side, side); neurons (kernel, row, column)."""
    seen = []
    for k, y, x in itertools.product(range(kernels), range(rows - side + 1), range(columns - side + 1)):
        window = itertools.product(range(channels), range(side), range(side))
        seen.append([((c * rows + y + i) * columns + x + j, (k, c, i, j)) for c, i, j in window])
    return seen


def pool(channels: int, rows: int, columns: int, side: int) -> Seen:
    """A square of one channel, no two overlapping, by weights (channels, 1, side, side)."""
    seen = []
    for c, y, x in itertools.product(range(channels), range(rows // side), range(columns // side)):
        square = itertools.product(range(side), range(side))
        seen.append([((c * rows + y * side + i) * columns + x * side + j, (c, 0, i, j)) for i, j in square])
    return seen


# ---- spikes ---------------------------------------------------------------------------------------------------------


def fire(seen: Seen, weight: np.ndarray, spikes_in: np.ndarray, neuron: Neuron, loop: np.ndarray | None, slack: float):
    """Spikes (T, N), and how near a membrane came to the threshold, v_th - slack, at the nearest.

    `spikes_in` may be currents (T, I), and so may the trains of pre-neurons below.
    """
    steps, size, theta = len(spikes_in), len(seen), neuron.v_th - slack
    spikes, nearest = np.zeros((steps, size), np.uint8), math.inf
    u, a, hold = [0.0] * size, [0.0] * size, [0] * size
    for t in range(1, steps):
        arriving, own = spikes_in[t - 1].tolist(), np.flatnonzero(spikes[t - 1]).tolist()
        for i in range(size):
            u[i] *= 1 - 1 / neuron.tau_m
            a[i] *= 1 - 1 / neuron.tau_s
            for j, key in seen[i]:
                if arriving[j]:
                    a[i] += weight[key] * arriving[j]
            for p in own if loop is not None else []:
                a[i] += loop[i, p]
            u[i] += a[i] / neuron.tau_s
            if hold[i] > 0:
                u[i], hold[i] = 0.0, hold[i] - 1
            nearest = min(nearest, abs(u[i] - theta))
            if u[i] > theta:
                spikes[t, i], u[i], hold[i] = 1, 0.0, neuron.t_ref
    return spikes, nearest


def revived(spikes: np.ndarray, label: int, desired: float, t_ref: int) -> np.ndarray:
    """The spikes with a regular train for the label's neuron if it is silent, the holds between spikes left free."""
    spikes = spikes.copy()
    if not spikes[:, label].any():
        interval = max(math.floor(len(spikes) / desired), t_ref + 1)
        for t in range(interval, len(spikes), interval):
            spikes[t, label] = 1
    return spikes


# ---- the effect of one train on another -----------------------------------------------------------------------------


def stepwise_effect(pre: np.ndarray, post: np.ndarray, neuron: Neuron) -> float:
    """ST-RSBP's S-PSP: the membrane that a unit weight leaves just before each spike of the post-neuron."""
    pre, post = pre.tolist(), post.tolist()
    p = q = total = 0.0
    hold = 0
    for t in range(1, len(pre)):
        p = p * (1 - 1 / neuron.tau_s) + pre[t - 1]
        q = q * (1 - 1 / neuron.tau_m) + p / neuron.tau_s
        if hold > 0:
            q, hold = 0.0, hold - 1
        if post[t]:
            total += q
            q, hold = 0.0, neuron.t_ref
    return total


def closed_effect(pre: np.ndarray, post: np.ndarray, neuron: Neuron) -> float:
    """HM2-BP's effect: a kernel for each pair of an output spike and an input spike before it."""
    total, delay = 0.0, neuron.t_ref
    arrivals, before = np.flatnonzero(pre).tolist(), None
    for t_f in np.flatnonzero(post).tolist():
        t_prev = 1 if before is None else before + delay
        before = t_f
        for t_j in arrivals:
            if max(1, math.floor(t_f - 4 * neuron.tau_m)) <= t_j <= t_f - delay:
                s, t = t_f - t_prev, t_f - t_j - delay
                near = min(s, t)
                rise = math.exp(-near / neuron.tau_m) - math.exp(-near / neuron.tau_s)
                kernel = math.exp(-max(t - s, 0) / neuron.tau_s) * rise / (1 - neuron.tau_s / neuron.tau_m)
                total += kernel * float(pre[t_j])
    return total


EFFECTS = {"strsbp": stepwise_effect, "hm2bp": closed_effect}


def effects(rule: str, seen: Seen, spikes_in: np.ndarray, spikes: np.ndarray, neuron: Neuron) -> list[list[float]]:
    """e of every synapse, neuron by neuron; HM2-BP's of a silent neuron is 0.1 where the input fires."""
    n_in, n, found = spikes_in.sum(0), spikes.sum(0), []
    for i, synapses in enumerate(seen):
        found.append([EFFECTS[rule](spikes_in[:, j], spikes[:, i], neuron) for j, _ in synapses])
        if rule == "hm2bp" and n[i] == 0:
            found[i] = [0.1 if n_in[j] else 0.0 for j, _ in synapses]
    return found


def lateral_factor(rule: str, spikes: np.ndarray, label: int, neuron: Neuron, strength: float, silent: float):
    """L_i of every output neuron, from the spikes as they are."""
    n, size = spikes.sum(0), spikes.shape[1]
    chi = [1 / neuron.v_th if n[i] or i == label else 0.0 for i in range(size)]

    def ratio(post: int, pre: int) -> float:
        both = n[post] and n[pre]
        return EFFECTS[rule](spikes[:, pre], spikes[:, post], neuron) / n[pre] if both else silent

    factors = []
    for i in range(size):
        echo = sum(ratio(other, i) * chi[other] * ratio(i, other) * chi[i] for other in range(size) if other != i)
        factors.append(1 / (1 - strength**2 * echo))
    return np.array(factors)


def output_error(counts: np.ndarray, label: int, desired: float, undesired: float, margin: float) -> np.ndarray:
    """dE/dn, 0 where the count is no more than `margin` off."""
    off = [float(n) - (desired if i == label else undesired) for i, n in enumerate(counts)]
    return np.array([x if abs(x) > margin else 0.0 for x in off])


def penalty(
    weight: np.ndarray, fan_in: int, strength: float, beta: float, limit: float, also: np.ndarray | None = None
):
    """What the exponential regulariser adds to the gradient of `weight`; `also`: other weights of the same neurons."""
    added = np.zeros(weight.shape)
    for i, row in enumerate(weight):
        q = sum((w / limit) ** 2 for w in row.flat) + (0.0 if also is None else sum((w / limit) ** 2 for w in also[i]))
        added[i] = strength * beta * row / limit * math.exp(beta * (q / fan_in - 1))
    return added


# ---- HM2-BP ---------------------------------------------------------------------------------------------------------


def hm2bp_backward(seen, weight, spikes_in, spikes, error, neuron, *, factor=None, effect_ratio=True, sigma_of=0.5):
    """Gradient, error below, of a layer; `error` (N,) is dE/dn. `sigma_of`: e/n_i in sigma where i is silent."""
    e = effects("hm2bp", seen, spikes_in, spikes, neuron)
    n_in, n = spikes_in.sum(0), spikes.sum(0)
    gradient, below = np.zeros(weight.shape), np.zeros(spikes_in.shape[1])
    for i, synapses in enumerate(seen):
        delta = error[i] / neuron.v_th
        shares = [e[i][s] / n[i] if n[i] else sigma_of for s in range(len(synapses))]
        sigma = sum(weight[key] * share for (_, key), share in zip(synapses, shares, strict=True)) / neuron.v_th
        gain = delta * (1 + sigma) * (1.0 if factor is None else factor[i])
        for s, (j, key) in enumerate(synapses):
            gradient[key] += gain * e[i][s]
            ratio = (e[i][s] / n_in[j] if n[i] and n_in[j] else 1.0) if effect_ratio else 1.0
            below[j] += delta * weight[key] * ratio
    return gradient, below


def averaged_pool_backward(seen, spikes_in, spikes, error, neuron, silent):
    """Error below a spiking pool: a share of the error by e/n, without weight or threshold. Both papers' simulators."""
    n_in, n, below = spikes_in.sum(0), spikes.sum(0), np.zeros(spikes_in.shape[1])
    for i, synapses in enumerate(seen):
        for j, _ in synapses:
            both = n[i] and n_in[j]
            ratio = closed_effect(spikes_in[:, j], spikes[:, i], neuron) / n_in[j] if both else silent
            below[j] += error[i] / len(synapses) * ratio
    return below


# ---- ST-RSBP --------------------------------------------------------------------------------------------------------


def slope(table: np.ndarray, n_pre: float, n_post: float) -> float:
    """D(n_pre, n_post): the derivative of the polynomial of the row of n_pre, whose highest power comes first."""
    c = table[min(max(int(n_pre), 1), len(table)) - 1]
    return 4 * c[0] * n_post**3 + 3 * c[1] * n_post**2 + 2 * c[2] * n_post + c[3]


def guarded(d: float) -> float:
    """Kept 1e-4 away from 0."""
    return d if abs(d) >= 1e-4 else (-1e-4 if d < 0 else 1e-4)


def strsbp_backward(seen, weight, spikes_in, spikes, error, neuron, *, silent, table=None, factor=None):
    """Gradient, error below, and D of a feed-forward layer."""
    e = effects("strsbp", seen, spikes_in, spikes, neuron)
    n_in, n = spikes_in.sum(0), spikes.sum(0)
    gradient, below, d = np.zeros(weight.shape), np.zeros(spikes_in.shape[1]), np.ones(len(seen))
    for i, synapses in enumerate(seen):
        if table is not None and n[i]:
            total = sum(weight[key] * slope(table, n_in[j], float(n[i])) for j, key in synapses)
            d[i] = guarded(1 - total / neuron.v_th)
        delta = error[i] / neuron.v_th / d[i]
        for s, (j, key) in enumerate(synapses):
            gradient[key] += delta * e[i][s] * (1.0 if factor is None else factor[i])
            below[j] += delta * weight[key] * (e[i][s] / n_in[j] if n[i] and n_in[j] else silent)
    return gradient, below, d


def strsbp_recurrent_backward(weight, loop, spikes_in, spikes, error, neuron, *, silent, table):
    """A recurrent layer without Theta of self-connections: gradients, and errors below by paper and authors' code."""
    (size, inputs), n_in, n = weight.shape, spikes_in.sum(0), spikes.sum(0)
    e = np.array(effects("strsbp", dense(size, inputs), spikes_in, spikes, neuron))
    e_own = np.array(effects("strsbp", dense(size, size), spikes, spikes, neuron)) * (loop != 0)
    system, phi = np.zeros((size, size)), np.zeros((size, inputs))
    for i in range(size):
        at = float(min(max(n[i], 1), len(table)))
        total = sum(weight[i, j] * slope(table, n_in[j], at) for j in range(inputs))
        total += sum(loop[i, p] * slope(table, n[p], at) for p in range(size))
        for p in range(size):
            if p != i and loop[i, p]:
                ratio = e_own[i, p] / n[p] if n[i] and n[p] else silent
                system[i, p] = -loop[i, p] * ratio / neuron.v_th
        system[i, i] = guarded(1 - total / neuron.v_th)
        for j in range(inputs):
            phi[i, j] = weight[i, j] * (e[i, j] / n_in[j] if n[i] and n_in[j] else silent)
    delta, inverse = error / neuron.v_th, np.linalg.inv(system)
    gain = (delta / np.diag(system))[:, None]
    slipped = (phi.reshape(inputs, size) @ inverse).reshape(size, inputs)
    return {
        "grad_in": gain * e,
        "grad_rec": gain * e_own,
        "below_paper": delta @ (inverse @ phi),
        "below_authors": delta @ slipped,
        "spsp_in": e,
        "spsp_rec": e_own,
        "system": system,
    }


# ---- STBP -----------------------------------------------------------------------------------------------------------


def surrogate(kind: str, u: float, v_th: float, a: float) -> float:
    """h1 to h4, in the place of the derivative of the step."""
    x = u - v_th
    if kind == "rectangle":
        return 1 / a if abs(x) < a / 2 else 0.0
    if kind == "polynomial":
        return math.sqrt(a) / 2 - a / 4 * abs(x) if abs(x) < 2 / math.sqrt(a) else 0.0
    if kind == "sigmoid":
        return math.exp(-x / a) / (1 + math.exp(-x / a)) ** 2 / a
    return math.exp(-(x**2) / (2 * a)) / math.sqrt(2 * math.pi * a)


def stbp_forward(seen, weight, bias, values, v_th, decay, *, strict=False, exponential=False):
    """Spikes and membranes (T, N) from the values (T, I) of the inputs, which arrive within their step.

    `bias` (N,); `exponential`: the membrane keeps tau exp(-1 / tau) of itself after a spike, else nothing.
    """
    spikes, membrane = np.zeros((len(values), len(seen))), np.zeros((len(values), len(seen)))
    for i, synapses in enumerate(seen):
        u = o = 0.0
        for t in range(len(values)):
            kept = decay * math.exp(-o / decay) if exponential else decay * (1 - o)
            u = u * kept + sum(weight[key] * values[t, j] for j, key in synapses) + bias[i]
            o = float(u > v_th if strict else u >= v_th)
            spikes[t, i], membrane[t, i] = o, u
    return spikes, membrane


def stbp_backward(
    seen, weight, values, spikes, membrane, error, v_th, decay, kind, width, *, exponential=False, in_time=True
):
    """dL/dW, dL/db (N,) and dL/d(values) from dL/do (T, N), through the steps or, without `in_time`, within each."""
    gradient, bias, below = np.zeros(weight.shape), np.zeros(len(seen)), np.zeros(values.shape)
    for i, synapses in enumerate(seen):
        ahead = 0.0
        for t in range(len(values) - 1, -1, -1):
            o, u = spikes[t, i], membrane[t, i]
            kept = decay * math.exp(-o / decay) if exponential else decay * (1 - o)
            change = -math.exp(-o / decay) if exponential else -decay
            to_spike = error[t, i] + (ahead * u * change if in_time else 0.0)
            ahead = to_spike * surrogate(kind, u, v_th, width) + (ahead * kept if in_time else 0.0)
            bias[i] += ahead
            for j, key in synapses:
                gradient[key] += ahead * values[t, j]
                below[t, j] += ahead * weight[key]
    return gradient, bias, below


# ---- sound to spikes ------------------------------------------------------------------------------------------------


def bsa(signal: np.ndarray, steps: int) -> np.ndarray:
    """Ben's Spiker Algorithm: spikes (steps, channels) of a signal (channels, frames)."""
    h = [math.exp(-((i - 12) ** 2) / 25) for i in range(24)]
    h = [value / math.fsum(h) for value in h]
    spikes = np.zeros((steps, len(signal)), np.uint8)
    for c, frames in enumerate(signal.tolist()):
        x = [value * 2000.0 for value in frames for _ in range(10)]
        length = len(x)
        x += [0.0] * 24
        for t in range(length):
            with_spike = sum(abs(x[t + i] - h[i]) for i in range(24))
            if with_spike < sum(abs(x[t + i]) for i in range(24)) - 0.6:
                if t + 1 < steps:
                    spikes[t + 1, c] = 1
                for i in range(24):
                    x[t + i] -= h[i]
    return spikes
