"""The reference's recursions through time, which dense layers and those over images share.

Each is a Python loop over steps, vectorised over samples and neurons: the neurons' forward, the readouts of the two
spike-train-level rules and STBP's gradient backward. What readouts are for stands in `reference`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from snnrun.kernels.neuron import Lif, Stbp
from snnrun.kernels.packed import unpack


def lif_scan(drive: Tensor, loop: Tensor | None, lif: Lif, theta: float) -> Tensor:
    """The recursion of the leaky integrate-and-fire neuron: spikes (B, T, N) of 0 and 1, uint8, none at step 0.

    `drive` (B, T, N), the weighted input spikes of each step, acts a step later; so do the layer's own spikes through
    `loop` (N, N), to row from column. A neuron fires above `theta`, mV, which stands for `lif.v_th`.
    """
    batch, steps, neurons = drive.shape
    spikes = torch.zeros(drive.shape, dtype=torch.uint8, device=drive.device)
    u, a = drive.new_zeros(2, batch, neurons).unbind()
    silent = torch.zeros(batch, neurons, dtype=torch.bool, device=drive.device)
    recent = [silent] * max(1, lif.t_ref)  # who fired in the last steps, the latest first
    for t in range(1, steps):
        a.mul_(lif.decay_s).add_(drive[:, t - 1])
        if loop is not None:
            a.addmm_(recent[0].to(a.dtype), loop.T)
        u.mul_(lif.decay_m).add_(a, alpha=1.0 / lif.tau_s)
        for held in recent[: lif.t_ref]:
            u.masked_fill_(held, 0.0)
        fired = u > theta
        u.masked_fill_(fired, 0.0)
        spikes[:, t] = fired
        recent = [fired, *recent[:-1]]
    return spikes


def strsbp_readout(spikes: Tensor, lif: Lif, dtype: torch.dtype = torch.float32) -> Tensor:
    """Readout of ST-RSBP's S-PSP: backwards filter that is 1 at each spike and 0 in the hold after the previous one.

    Args:
        spikes: (B, T, N) of 0 and 1, the post-neurons' spikes.
        lif: neuron parameters; `v_th` plays no part.
        dtype: of the result.

    Returns:
        readout (B, T, N) with e_ij = sum_t readout_i(t) s_j(t) (ST-RSBP, Zhang & Li 2019, eq. 7 and its S-PSP).
    """
    steps = spikes.shape[1]
    fired = spikes.bool()
    held = torch.zeros_like(fired)
    for lag in range(1, min(lif.t_ref, steps - 1) + 1):
        held[:, lag:] |= fired[:, :-lag]
    readout = torch.zeros(spikes.shape, dtype=dtype, device=spikes.device)
    q, p = readout.new_zeros(2, spikes.shape[0], spikes.shape[2]).unbind()  # adjoints of membrane and synapse
    for t in range(steps - 1, 0, -1):
        q.masked_fill_(fired[:, t], 1.0).masked_fill_(held[:, t], 0.0)
        p.mul_(lif.decay_s).add_(q, alpha=1.0 / lif.tau_s)
        readout[:, t - 1] = p  # a spike arrives one step after it was fired
        q.mul_(lif.decay_m)
    return readout


def hm2bp_readout(spikes: Tensor, lif: Lif, dtype: torch.dtype = torch.float32) -> Tensor:
    """Readout of HM2-BP's effect e, the closed form with exact exponentials (Jin, Zhang & Li 2018, eq. 8).

    For an output spike at t_f, with the reference t_prev = previous spike + t_ref (1 before the first spike), an input
    spike at t_j in [max(1, floor(t_f - 4 tau_m)), t_f - t_ref] counts, with S = t_f - t_prev and t = t_f - t_j - t_ref,

        exp(-max(t - S, 0) / tau_s) (exp(-min(S, t) / tau_m) - exp(-min(S, t) / tau_s)) / (1 - tau_s / tau_m).

    Input spikes since the previous output spike (t <= S) see the second factor alone; older ones decay with tau_s.

    Args, Returns: as for `strsbp_readout`.
    """
    batch, steps, neurons = spikes.shape
    kernel, window, decay = hm2bp_kernel(steps, lif)
    kernel = kernel.to(spikes.device, dtype)

    # A pair of successive spikes (first, last) gives the inputs before `first` a tail that starts from kernel(S) and
    # is cut where the window of `last` begins.
    sample, neuron, time = torch.nonzero(spikes.transpose(1, 2), as_tuple=True)
    successive = (sample[1:] == sample[:-1]) & (neuron[1:] == neuron[:-1])
    sample, neuron, first, last = (x[successive] for x in (sample[1:], neuron[1:], time[:-1], time[1:]))
    begin = (last - math.ceil(window)).clamp(min=0)
    seen = begin <= first
    sample, neuron, first, begin, height = (x[seen] for x in (sample, neuron, first, begin, kernel[last - first]))
    tail_change = torch.zeros(spikes.shape, dtype=dtype, device=spikes.device)
    tail_change.index_put_((sample, first, neuron), height, accumulate=True)
    cut = height * torch.exp((begin - first).to(dtype) / lif.tau_s)
    tail_change.index_put_((sample, begin, neuron), -cut, accumulate=True)

    readout = torch.zeros_like(tail_change)
    tail = tail_change.new_zeros(batch, neurons)
    following = torch.full((batch, neurons), 2 * steps, device=spikes.device)
    for now in range(steps - 1, 0, -1):  # an input spike at step 0 is ignored
        readout[:, now] = kernel[following - now] + tail
        tail.add_(tail_change[:, now]).mul_(decay)
        following.masked_fill_(spikes[:, now].bool(), now)
    return readout


def hm2bp_kernel(steps: int, lif: Lif) -> tuple[Tensor, float, float]:
    """kernel(t) of HM2-BP's effect by the distance t + t_ref to the output spike, its window and tau_s' decay per step.

    (2 T + 1,) float64; 0 inside the refractory period, outside the window, and from T on, which stands for no spike.
    """
    window = 4.0 * lif.tau_m
    distance = torch.arange(2 * steps + 1, dtype=torch.float64)
    t = distance - lif.t_ref
    kernel = (torch.exp(-t / lif.tau_m) - torch.exp(-t / lif.tau_s)) / (1.0 - lif.tau_s / lif.tau_m)
    kernel = torch.where((t >= 0) & (distance < min(window + 1, steps)), kernel, 0.0)
    return kernel, window, math.exp(-1.0 / lif.tau_s)


def readout(rule: str, spikes: Tensor, neurons: int, lif: Lif, dtype: torch.dtype = torch.float32) -> Tensor:
    """Readout (B, T, N) of `strsbp` or `hm2bp` from the bits (B, T, W) of the post-neurons' spikes."""
    function = {"strsbp": strsbp_readout, "hm2bp": hm2bp_readout}[rule]
    return function(unpack(spikes, neurons), lif, dtype)


# ---- STBP -----------------------------------------------------------------------------------------------------------


def stbp_scan(drive: Tensor, recurrent_weight: Tensor | None, neuron: Stbp) -> tuple[Tensor, Tensor]:
    """The recursion through time: spikes (B, T, N) of 0.0 and 1.0 and membranes from W o + b of every step."""
    spikes, membrane = torch.empty_like(drive), torch.empty_like(drive)
    u, o = drive.new_zeros(2, drive.shape[0], drive.shape[2]).unbind()
    after_spike = neuron.decay_after_spike - neuron.decay
    for t in range(drive.shape[1]):
        u = u * (neuron.decay + after_spike * o) + drive[:, t]
        if recurrent_weight is not None:
            u = torch.addmm(u, o, recurrent_weight.T)
        o = (u > neuron.v_th if neuron.strict else u >= neuron.v_th).to(drive.dtype)
        spikes[:, t], membrane[:, t] = o, u
    return spikes, membrane


def surrogate(u: Tensor, neuron: Stbp) -> Tensor:
    """Derivative that stands in for that of the step function: h1 to h4 of Wu et al. 2018, each of integral 1."""
    x, a = u - neuron.v_th, neuron.width
    match neuron.surrogate:
        case "rectangle":
            return (x.abs() < a / 2).to(u.dtype) / a
        case "polynomial":
            return (math.sqrt(a) / 2 - a / 4 * x.abs()).clamp(min=0.0)
        case "sigmoid":
            return torch.sigmoid(x / a) * torch.sigmoid(-x / a) / a
        case "gaussian":
            return torch.exp(-x.square() / (2 * a)) / math.sqrt(2 * math.pi * a)
    raise ValueError(f"unknown surrogate {neuron.surrogate!r}")


def stbp_scan_backward(
    grad_spikes: Tensor, spikes: Tensor, membrane: Tensor, recurrent_weight: Tensor | None, neuron: Stbp
) -> Tensor:
    """The recursion backwards through time: dL/du (B, T, N), which is also dL/d(drive).

    `grad_spikes` is what reaches the spikes from above, the first sum of

        dL/do^t = sum_j dL/du_j^{t, n+1} w_ji + dL/du^{t+1} u^t f'(o^t),  dL/du^t = dL/do^t h(u^t) + dL/du^{t+1} f(o^t)

    (Wu et al. 2018, eq. 13-20 with their index slips mended); a recurrent weight adds dL/du^{t+1} W_rec to dL/do^t.
    """
    grad_u = torch.empty_like(grad_spikes)
    h = surrogate(membrane, neuron)
    if not neuron.temporal_gradient:
        return torch.mul(grad_spikes, h, out=grad_u)
    change = neuron.decay_after_spike - neuron.decay
    # Eq. 8 replaces f by decay (1 - o), of slope -decay; eq. 6 has the slope -exp(-o / decay).
    smooth = neuron.exponential_reset
    slope = -torch.exp(-spikes / neuron.decay) if smooth else torch.full_like(spikes, -neuron.decay)
    ahead = torch.zeros_like(grad_u[:, 0])  # dL/du of the step ahead
    for t in range(grad_spikes.shape[1] - 1, -1, -1):
        grad_o = torch.addcmul(grad_spikes[:, t], ahead, membrane[:, t] * slope[:, t])
        if recurrent_weight is not None:
            grad_o = torch.addmm(grad_o, ahead, recurrent_weight)
        ahead = grad_o * h[:, t] + ahead * (neuron.decay + change * spikes[:, t])
        grad_u[:, t] = ahead
    return grad_u
