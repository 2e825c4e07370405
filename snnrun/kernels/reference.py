"""The kernels in plain PyTorch: short, readable, on any device and in float32 or float64. This is the truth.

Vectorised over samples and neurons; the recursions through time are Python loops over steps.

The spike-train-level rules need for each pair of neurons the S-PSP `e[b, i, j]`. Both of its definitions, the stepwise
one of ST-RSBP and the closed form of HM2-BP, are linear in the spikes of the pre-neuron, so each is one product

    e_ij = sum over t of readout_i(t) s_j(t)

of the input spikes with a *readout* that depends on the post-neuron's spikes alone. The readout of ST-RSBP is the
adjoint of "filter the input to a membrane trace, read the trace at each spike, reset and hold it": a filter that runs
backwards in time. One readout serves the feed-forward and the recurrent synapses of a layer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from snnrun.kernels.neuron import THRESHOLD_SLACK, Lif, Stbp


def count_spikes(spikes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Firing counts (B, N) of uint8 spikes (B, T, N)."""
    # Bytes are added as bytes, 255 steps at a time: thirty times faster than a sum that converts each of them.
    parts = [part.sum(dim=1, dtype=torch.uint8).to(dtype) for part in torch.split(spikes, 255, dim=1)]
    return torch.stack(parts).sum(dim=0)


def lif_forward(spikes_in: Tensor, weight: Tensor, recurrent_weight: Tensor | None, lif: Lif) -> Tensor:
    """Simulate a layer of leaky integrate-and-fire neurons.

    Args:
        spikes_in: (B, T, I) uint8.
        weight: (N, I), mV.
        recurrent_weight: (N, N), mV, to row from column, acting with a delay of one step; None without recurrence.
        lif: neuron parameters.

    Returns:
        spikes (B, T, N) uint8. None occurs at step 0.
    """
    drive = spikes_in.to(weight.dtype) @ weight.T  # (B, T, N)
    batch, steps, neurons = drive.shape
    spikes = torch.zeros(drive.shape, dtype=torch.uint8, device=drive.device)
    u, a = drive.new_zeros(2, batch, neurons).unbind()
    theta = lif.v_th - THRESHOLD_SLACK
    silent = torch.zeros(batch, neurons, dtype=torch.bool, device=drive.device)
    recent = [silent] * max(1, lif.t_ref)  # who fired in the last steps, the latest first
    for t in range(1, steps):
        a.mul_(lif.decay_s).add_(drive[:, t - 1])
        if recurrent_weight is not None:
            a.addmm_(recent[0].to(a.dtype), recurrent_weight.T)
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
        spikes: (B, T, N), the post-neurons' spikes.
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
    begin = torch.floor(last - window).clamp(min=0).to(torch.long)
    seen = begin <= first
    sample, neuron, first, begin, height = (x[seen] for x in (sample, neuron, first, begin, kernel[last - first]))
    tail_change = torch.zeros(spikes.shape, dtype=dtype, device=spikes.device)
    tail_change.index_put_((sample, first, neuron), height, accumulate=True)
    cut = height * torch.exp(-(first - begin) / lif.tau_s)
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


def spsp(readout: Tensor, spikes_in: Tensor) -> Tensor:
    """S-PSP of every pair: e (B, N, I) from the readout (B, T, N) and the input spikes (B, T, I)."""
    return torch.bmm(readout.transpose(1, 2), spikes_in.to(readout.dtype))


def spsp_activation(readout: Tensor, spikes_in: Tensor, weight: Tensor) -> Tensor:
    """Total post-synaptic potential a_i = sum_j w_ij e_ij (ST-RSBP eq. 1), (B, N), without forming e."""
    drive = spikes_in.to(weight.dtype) @ weight.T
    return (readout * drive).sum(dim=1)


def spsp_backward(
    readout: Tensor, spikes_in: Tensor, gain: Tensor, credit: Tensor | None, weight: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The two sums over pairs that a spike-train-level backward pass needs.

    Args:
        readout: (B, T, N).
        spikes_in: (B, T, I) uint8.
        gain: (B, N), what multiplies e_ij in the weight gradient.
        credit: (B, N), what multiplies w_ij e_ij in the error of the layer below; None when no layer is below.
        weight: (N, I), mV.

    Returns:
        sum over b of gain_bi e_bij, (N, I); sum over i of credit_bi w_ij e_bij, (B, I), or None.
    """
    if credit is None:
        inputs = spikes_in.to(readout.dtype).flatten(0, 1)  # (B T, I)
        return (readout * gain[:, None]).flatten(0, 1).T @ inputs, None
    e = spsp(readout, spikes_in)
    error = torch.stack([credit[b] @ (weight * e[b]) for b in range(len(e))])
    return torch.einsum("bi,bij->ij", gain, e), error


def coupling(
    readout: Tensor, spikes: Tensor, counts: Tensor, weight: Tensor, mask: Tensor, v_th: float, silent_ratio: float
) -> Tensor:
    """Theta of a recurrent layer, w_lp e_lp / n_p / v_th (ST-RSBP eq. 11 and 12).

    Args:
        readout, spikes: (B, T, N), the layer's own; counts: (B, N).
        weight, mask: (N, N), the recurrent weights in mV and which of them exist.
        v_th: threshold, mV.
        silent_ratio: stands for e_lp / n_p where either neuron is silent.

    Returns:
        what `coupling_solve` and `coupling_product` take; here (B, N, N), to row from column.
    """
    both = (counts > 0)[:, :, None] & (counts > 0)[:, None, :]
    ratio = torch.where(both, spsp(readout, spikes) / counts.clamp(min=1.0)[:, None, :], silent_ratio)
    return weight * mask * ratio / v_th


def coupling_solve(theta: Tensor, diagonal: Tensor, right: Tensor, self_coupling: bool = True) -> Tensor:
    """x of (diag(diagonal) - theta)^T x = right, shaped as `right`: (B, N), or (B, N, M) for M right-hand sides.

    Without `self_coupling` theta's diagonal counts as 0.
    """
    matrix = -theta
    if not self_coupling:
        matrix.diagonal(dim1=1, dim2=2).zero_()
    matrix.diagonal(dim1=1, dim2=2).add_(diagonal)
    several = right if right.dim() == 3 else right[:, :, None]
    return solve(matrix.transpose(1, 2), several).reshape(right.shape)


def coupling_product(theta: Tensor, x: Tensor) -> Tensor:
    """theta^T x, (B, N)."""
    return torch.einsum("bl,blp->bp", x, theta)


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solution (B, N, M) of matrix (B, N, N) @ x = right (B, N, M); not finite where a matrix is singular."""
    threads = torch.get_num_threads()
    # After torch.set_num_threads(n > 1), MKL runs several threads in each of PyTorch's own, and its LU factorisation
    # of a batch then fails with wrong pivots (seen with PyTorch 2.13 and MKL 2024.2).
    torch.set_num_threads(1)
    try:
        solution: Tensor = torch.linalg.solve_ex(matrix, right)[0]
        return solution
    finally:
        torch.set_num_threads(threads)


def stbp_forward(drive: Tensor, recurrent_weight: Tensor | None, neuron: Stbp) -> tuple[Tensor, Tensor]:
    """Simulate a layer of STBP's iterative neurons (Wu et al. 2018, eq. 3-8).

    Args:
        drive: (B, T, N), W o + b of eq. 3-4 for every step; no synaptic delay.
        recurrent_weight: (N, N), acting with a delay of one step, or None.
        neuron: parameters.

    Returns:
        spikes (B, T, N) of 0.0 and 1.0; membrane potentials u (B, T, N) before the reset.
    """
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


def stbp_backward(
    grad_spikes: Tensor, spikes: Tensor, membrane: Tensor, recurrent_weight: Tensor | None, neuron: Stbp
) -> Tensor:
    """Backpropagate through the steps of a layer: dL/du (B, T, N), which is also dL/d(drive).

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
